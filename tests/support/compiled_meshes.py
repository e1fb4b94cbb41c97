"""Compiles a tiny run for meshes of 8 virtual devices: `python -m tests.support.compiled_meshes`.

Prints, as JSON, the memory and costs of the training step a mesh.
"""

import dataclasses
import json
import sys

import jax

from dpt_jax.devices import partitioning
from dpt_jax.planning import ahead_of_time
from tests.support import runs

# By mesh, the numbers of microbatches.
MESHES = {(8, 1, 1): (1, 2), (2, 2, 2): (1, 2), (1, 1, 8): (1,)}


def config(mesh, **changes):
    return runs.run_config("", None, mesh=mesh, batch_size=16, **changes)


if __name__ == "__main__":
    found = {}
    for shape, numbers in MESHES.items():
        mesh = partitioning.make_mesh(shape)
        for microbatches in numbers:
            compiled = ahead_of_time.compile_train_step(
                config(shape, microbatches=microbatches), mesh
            )
            found["x".join(map(str, shape)) + f"/{microbatches}"] = {
                "memory": dataclasses.asdict(compiled.memory),
                "flops": compiled.costs.flops,
                "collective_bytes": compiled.costs.collective_bytes,
                "kinds": compiled.costs.by_kind(),
            }
    one = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    compiled = ahead_of_time.compile_train_step(config((1, 1, 1)), one)
    found["1x1x1/1"] = {"flops": compiled.costs.flops, "kinds": compiled.costs.by_kind()}
    mesh = partitioning.make_mesh((2, 2, 2))
    decoding = ahead_of_time.compile_decoding(config((2, 2, 2)), mesh)
    found["decoding"] = {"flops": decoding.costs.flops}
    json.dump(found, sys.stdout)
