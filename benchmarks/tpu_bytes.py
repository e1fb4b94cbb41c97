"""Where a training step's bytes go on a TPU, by part of the network, before and after the kernels.

    python benchmarks/tpu_bytes.py --model=t5_1_0_small --topology=v6e:1x1 --batch=256

Compiles the step of the DPT paper's setting (see scaling.py) twice, with attention that holds its
scores and with the TPU's default, and prints the gigabytes that each part of the network moves to
and from a chip's memory, forth and back, and the temporaries that it holds there. No TPU is needed.
`--layers=2` takes so many encoder and decoder layers, for a quick look.
"""

import argparse
import collections
import dataclasses
from typing import Any

from parts import part_of


def bytes_by_part(text: str) -> dict[str, float]:
    """Bytes moved by each part, of a compiled program's text."""
    from dpt_jax.planning.compiled import read_costs

    total: dict[str, float] = collections.Counter()
    for work in read_costs(text).work:
        total[part_of(work.name)] += work.bytes * work.times
    return total


def compile_step(options: argparse.Namespace, attention: str) -> Any:
    """The compiled training step, an `ahead_of_time.Compiled`."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import scaling

    from dpt_jax import gin_utils
    from dpt_jax.devices import partitioning
    from dpt_jax.planning import ahead_of_time
    from dpt_jax.planning.tpus import parse_topology
    from dpt_jax.training.config import RunConfig

    files = ["runs/prompt_train.gin", f"models/{options.model}.gin", "recipes/paper.gin"]
    bindings = [*scaling.BINDINGS, f"BATCH_SIZE = {options.batch}", f"ATTENTION = {attention!r}"]
    gin_utils.parse([*files, "recipes/tpu.gin"], bindings)
    config = gin_utils.build(RunConfig)
    if options.layers:
        layers = dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), options.layers)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **layers))
    devices = ahead_of_time.tpu_devices(parse_topology(options.topology))
    return ahead_of_time.compile_train_step(config, partitioning.make_mesh(devices=devices))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="t5_1_0_small", help="a model's gin file")
    parser.add_argument("--topology", default="v6e:1x1", help="chip and slice")
    parser.add_argument("--batch", type=int, default=256, help="batch size")
    parser.add_argument("--layers", type=int, help="encoder and decoder layers, instead of all")
    options = parser.parse_args()
    steps = [compile_step(options, name) for name in ("plain", "auto")]
    before, after = (bytes_by_part(step.text) for step in steps)
    before["all"], after["all"] = sum(before.values()), sum(after.values())
    print("| part | plain, GB | kernels, GB |\n| --- | --- | --- |")
    for part in sorted({*before, *after}, key=lambda p: before.get(p, 0.0)):
        print(f"| {part} | {before.get(part, 0) / 1e9:.2f} | {after.get(part, 0) / 1e9:.2f} |")
    held = (f"{step.memory.temporaries / 2**30:.2f}" for step in steps)
    print("temporaries, GiB:", " -> ".join(held))


if __name__ == "__main__":
    main()
