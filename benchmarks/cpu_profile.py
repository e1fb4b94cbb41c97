"""Where each second of a training step or of generation goes on a CPU, by XLA's own profiler.

    python benchmarks/cpu_profile.py --source=500                  # a training step
    python benchmarks/cpu_profile.py --source=500 --phase=generate

T5-Small's shape with random weights, 100 prompt tokens, batches of 16 rows that are all as long as
the source, float32, dropout 0.1 in training, one XLA device per core. Prints, for each part of the
network, the seconds that its operations take on the first device, those of its matrix products, and
how much of the rate of one large product, measured in the same process, they reach. `--tiny` is for
a test. The last line is a JSON object with the same numbers, the seconds of a step by the clock and
the peak memory before the profiler.
"""

import argparse
import collections
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import processes
from parts import part_of
from sizes import T5_SMALL, TINY, Size

DECODE_LENGTH = 8
TURNS = 3


def operations(dumps: pathlib.Path) -> dict[tuple[str, str], tuple[str, float]]:
    """For each instruction of each program that XLA has dumped: its origin and products' FLOP.

    Loops and calls are left out: what they run is counted by itself.
    """
    from dpt_jax.planning import compiled, hlo

    found = {}
    for file in sorted(dumps.glob("*after_optimizations.txt")):
        module = hlo.parse(file.read_text())
        program = file.name.split(".")[1]
        for computation in module.computations.values():
            for one in computation.instructions:
                if one.opcode in ("while", "call", "conditional"):
                    continue
                flop = compiled.matrix_flops(computation, one)
                if one.opcode == "fusion":
                    fused = module.computations[str(one.called("calls"))]
                    flop += sum(compiled.matrix_flops(fused, i) for i in fused.instructions)
                found[program, one.name] = compiled.origin(one), flop
    return found


def traced(run: Callable[[], Any], turns: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each time that the first device ran an instruction of a program."""
    import jax

    seconds = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(turns):
                run()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for event in (event for line in plane.lines for event in line.events):
                stats = dict(event.stats)
                if stats.get("hlo_op") == event.name and int(stats["device_ordinal"]) == 0:
                    name = stats["hlo_module"], event.name
                    seconds[name].append(event.duration_ns / 1e9)
    return seconds


def machine_rate(width: int) -> float:
    """FLOP/s of a device in a large matrix product, all devices at work."""
    import jax
    import jax.numpy as jnp

    devices = jax.devices()
    rows = jnp.ones((width * len(devices), width))
    mesh = jax.sharding.Mesh(devices, ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rows = jax.device_put(rows, spread)
    square = jax.device_put(rows[:width], jax.sharding.NamedSharding(mesh, jax.P()))
    product = jax.jit(jnp.dot, out_shardings=spread)

    def run() -> None:
        product(rows, square).block_until_ready()

    run()
    (times,) = traced(run, TURNS).values()
    return 2 * width**3 / statistics.median(times)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=int, default=500, help="tokens of every source")
    parser.add_argument("--phase", choices=("train", "generate"), default="train")
    parser.add_argument("--threads", type=int, default=2, help="cores, one XLA device each")
    parser.add_argument("--attention", default="auto", help="ATTENTION")
    parser.add_argument("--remat_policy", default="none", help="REMAT_POLICY")
    parser.add_argument("--operations", type=int, default=0, help="show as many of the costliest")
    parser.add_argument("--tiny", action="store_true", help="a tiny T5, for a test")
    options = parser.parse_args()
    processes.use_one_device_per_core(options.threads)
    with tempfile.TemporaryDirectory() as dumps:
        os.environ["XLA_FLAGS"] += f" --xla_dump_to={dumps} --xla_dump_hlo_as_text"
        profile(TINY if options.tiny else T5_SMALL, options, pathlib.Path(dumps))


def profile(size: Size, options: argparse.Namespace, dumps: pathlib.Path) -> None:
    """Measures and prints."""
    import jax
    import numpy as np
    from ours import Ours

    # XLA dumps what it compiles, and not what was kept.
    jax.config.update("jax_enable_compilation_cache", False)
    ours = Ours(
        size,
        dropout=0.1 if options.phase == "train" else 0.0,
        attention=options.attention,
        remat_policy=options.remat_policy,
    )
    rng = np.random.default_rng(0)
    shapes = {"source": options.source, "target": size.target_length}
    source, target = (
        rng.integers(2, size.vocab_size, (size.batch_size, length)).astype(np.int32)
        for length in shapes.values()
    )
    batch = {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": target,
    }

    def run() -> None:
        if options.phase == "train":
            ours.train(batch)
        else:
            ours.generate(source, DECODE_LENGTH)

    run()
    wall = statistics.median(processes.seconds(run) for _ in range(TURNS))
    memory = processes.peak_memory_bytes()
    known = operations(dumps)
    costly: list[tuple[float, float, str, str]] = []
    parts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    for name, times in traced(run, TURNS).items():
        if name not in known:
            continue
        origin, flop = known[name]
        part, seconds = part_of(origin), sum(times) / TURNS
        costly.append((seconds, flop * len(times) / TURNS, name[1], origin))
        row = [seconds, seconds if flop else 0.0, flop * len(times) / TURNS]
        parts[part] = [a + b for a, b in zip(parts[part], row, strict=True)]
    rate = machine_rate(size.matmul // 2)
    print("| part | seconds | of them products | GFLOP | of the rate of one large product |")
    print("| --- | ---: | ---: | ---: | ---: |")
    parts["all"] = [sum(column) for column in zip(*parts.values(), strict=True)]
    for part, (seconds, products, flop) in sorted(parts.items(), key=lambda x: x[1][0]):
        share = f"{flop / products / rate:.0%}" if products else "–"
        print(f"| {part} | {seconds:.3f} | {products:.3f} | {flop / 1e9:.1f} | {share} |")
    for seconds, flop, name, origin in sorted(costly, reverse=True)[: options.operations]:
        print(f"{seconds:.3f} s {flop / 1e9:8.2f} GFLOP  {name}  {origin}")
    named = {
        p: dict(zip(("seconds", "products", "flop"), v, strict=True)) for p, v in parts.items()
    }
    found = {"seconds": wall, "peak_memory_bytes": memory, "machine_flop_per_second": rate}
    print(json.dumps(found | {"parts": named}))


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
    main()
