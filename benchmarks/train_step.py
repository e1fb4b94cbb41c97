"""One training step of prompt tuning, ours against PEFT's.

    python benchmarks/train_step.py

T5-Small's shape with random weights, 100 prompt tokens (ours decomposed, b = 10; PEFT's vanilla),
16 rows of 128 source and 8 target tokens, float32, AdamW, 2 threads. Both sides train with the same
dropout rate: 0.1, T5's own and what PEFT trains a T5 with unless told otherwise. It matters: here
PEFT's step takes two thirds longer with dropout than without (`--dropout 0`), ours hardly changes,
and without it the ratio is near 1.
The two sides take turns, each in its own process; medians over the turns. Ours splits the batch
over one XLA device per core and takes memory in huge pages (`processes.use_one_device_per_core`).

The last line is a JSON object:
  step_seconds, peft_step_seconds  a step: forward, backward to the prompt, update.
  ratio                            peft_step_seconds / step_seconds.
  matmul_share                     rate of our step over `matmul_gflop_per_second`. The step's
                                   operations are the matrix products our program is written with,
                                   counted in its jaxpr; elementwise work counts as none.
  matmul_gflop_per_second          the better of XLA's and PyTorch's rate for a 4096 x 4096 float32
                                   product, median over the turns.
  peak_memory_bytes, peft_peak_memory_bytes
                                   largest resident memory of each process, imports included.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import statistics
import sys

import processes
from sizes import T5_SMALL, TINY, Size


def make_batch(size: Size, seed: int):
    """Random tokens, every row as long as the batch: both sides do the same work."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def tokens(length):
        return rng.integers(2, size.vocab_size, (size.batch_size, length)).astype(np.int32)

    source, target = tokens(size.source_length), tokens(size.target_length)
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": target,
    }


def serve(side: str, size: Size, dropout: float, threads: int) -> None:
    """The child: steps and matrix products on demand."""
    processes.use_cores(threads)
    if side == "ours":
        processes.use_one_device_per_core(threads)
        import ours as library

        model = library.Ours(size, dropout)
    else:
        import theirs as library

        model = library.Theirs(size, dropout, threads)
    batch = make_batch(size, seed=0)

    def step():
        loss = []
        elapsed = processes.seconds(lambda: loss.append(model.train(batch)))
        return {"seconds": elapsed, "loss": loss[0]}

    processes.serve(
        {
            "step": step,
            "matmul": lambda: {"gflop_per_second": library.matmul_gflop_per_second(size.matmul)},
            "flop": lambda: {"flop": model.matmul_flop(batch)},
            "memory": lambda: {"bytes": processes.peak_memory_bytes()},
        }
    )


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Runs both sides in turn and compares them."""
    common = ["--dropout", str(options.dropout), "--threads", str(options.threads)]
    common += ["--tiny"] if options.tiny else []
    seconds = {"ours": [], "theirs": []}
    rates = {"ours": [], "theirs": []}
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                processes.start(__file__, ["--side", name, *common], options.threads)
            )
            for name in seconds
        }
        for side in sides.values():
            # Compilation on our side, warm caches and allocators on both.
            for _ in range(2):
                side.ask("step")
        memory = {}
        for turn in range(options.turns):
            for name, side in sides.items():
                seconds[name] += [side.ask("step")["seconds"] for _ in range(options.steps)]
            # Before the large matrices of the next line.
            for name, side in sides.items():
                memory.setdefault(name, side.ask("memory")["bytes"])
                rates[name].append(side.ask("matmul")["gflop_per_second"])
            print(
                f"turn {turn + 1}/{options.turns}: "
                + ", ".join(f"{n} {s[-1]:.3f} s" for n, s in seconds.items())
                + f", matmul {max(r[-1] for r in rates.values()):.0f} GFLOP/s",
                flush=True,
            )
        flop = sides["ours"].ask("flop")["flop"]
    step, peft_step = (statistics.median(seconds[name]) for name in ("ours", "theirs"))
    rate = max(statistics.median(r) for r in rates.values())
    return {
        "step_seconds": step,
        "peft_step_seconds": peft_step,
        "ratio": peft_step / step,
        "step_gflop": flop * 1e-9,
        "matmul_gflop_per_second": rate,
        "matmul_share": flop * 1e-9 / step / rate,
        "peak_memory_bytes": memory["ours"],
        "peft_peak_memory_bytes": memory["theirs"],
        "dropout": options.dropout,
        "threads": options.threads,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout rate on both sides")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each side")
    parser.add_argument("--turns", type=int, default=6, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--tiny", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = TINY if options.tiny else T5_SMALL
    if options.side:
        serve(options.side, size, options.dropout, options.threads)
        return
    if importlib.util.find_spec("peft") is None:
        sys.exit("peft is not installed: the comparison needs pip install 'dpt-jax[interop]'")
    print(json.dumps(dataclasses.asdict(size)))
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
