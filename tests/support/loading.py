"""Loads backbones onto 8 virtual devices: `python -m tests.support.loading PROCESS COUNT ADDRESS`.

The further arguments are FOLDER=MESH, as in `/models/t5=1x1x8`. For each, one JSON object per line:
`share`, the bytes of the slices that this process's devices hold, each counted once, `peak`, the
most memory that the process had, and `growth`, by how much that was more than before.
"""

import json
import pathlib
import sys

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from dpt_jax.devices import partitioning
from dpt_jax.devices.launch import Launch, start
from dpt_jax.devices.placement import place
from dpt_jax.interop import load_backbone, open_backbone
from dpt_jax.models import Transformer
from dpt_jax.models.network import abstract_variables
from dpt_jax.problems.first_values import open_frozen
from dpt_jax.tensors import fingerprint


def memory(name: str) -> int:
    """Bytes that /proc/self/status gives under that name."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(folder: str, shape: tuple[int, ...]) -> None:
    """Loads one backbone, measures, and compares every slice with the whole parameter."""
    config = open_backbone(folder).config
    mesh = partitioning.make_mesh(shape)
    variables = abstract_variables(Transformer(config))
    shardings = partitioning.parameter_shardings(variables, mesh)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak so far.
    before = memory("VmRSS")
    frozen = open_frozen(folder, config, seed=0)
    fingerprint(frozen)
    placed = place(frozen, shardings)
    peak = memory("VmHWM")

    share, whole = 0, flatten_dict(load_backbone(folder)[1], sep="/")
    for name, array in flatten_dict(placed, sep="/").items():
        slices = {str(shard.index): shard.data.nbytes for shard in array.addressable_shards}
        share += sum(slices.values())
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), whole[name][shard.index])
    print(json.dumps({"share": share, "peak": peak, "growth": peak - before}), flush=True)


if __name__ == "__main__":
    process, count, address, *wanted = sys.argv[1:]
    start(Launch(address, int(count), int(process)))
    assert len(jax.devices()) == 8
    for pair in wanted:
        path, _, axes = pair.rpartition("=")
        measure(path, tuple(map(int, axes.split("x"))))
