"""One training step with a prefix: against a soft prompt, and against PEFT's prefix tuning.

    python benchmarks/prefix_step.py

T5-Small's shape with random weights, 16 rows of 128 source and 8 target tokens, float32, AdamW,
dropout 0.1, 2 threads. Four sides take turns, each in its own process; medians over the turns:
ours with a soft prompt of 100 tokens, ours with a free prefix of 20 tokens in all encoder layers,
ours with one in all decoder layers, and PEFT's, which is one in the decoder.

The last line is a JSON object:
  prompt_step_seconds, encoder_step_seconds, decoder_step_seconds, peft_decoder_step_seconds
                         a step: forward, backward to what is trained, update.
  encoder_over_prompt    encoder_step_seconds / prompt_step_seconds.
  decoder_ratio          peft_decoder_step_seconds / decoder_step_seconds.
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
from train_step import make_batch

SIDES = ("prompt", "encoder", "decoder", "peft_decoder")


def serve(side: str, size: Size, dropout: float, threads: int) -> None:
    """The child: steps on demand."""
    processes.use_cores(threads)
    if side == "peft_decoder":
        from theirs import Theirs

        model = Theirs(size, dropout, threads, prefix=True)
    else:
        processes.use_one_device_per_core(threads)
        from ours import Ours

        model = Ours(size, dropout, None if side == "prompt" else side)
    batch = make_batch(size, seed=0)
    processes.serve({"step": lambda: {"seconds": processes.seconds(lambda: model.train(batch))}})


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Runs the sides in turn."""
    common = ["--dropout", str(options.dropout), "--threads", str(options.threads)]
    common += ["--tiny"] if options.tiny else []
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in SIDES:
            arguments = ["--side", name, *common]
            child = processes.start(__file__, arguments, options.threads)
            sides[name] = stack.enter_context(child)
        for side in sides.values():
            # Compilation on our side, warm caches and allocators on both.
            for _ in range(2):
                side.ask("step")
        for turn in range(options.turns):
            for name, side in sides.items():
                seconds[name] += [side.ask("step")["seconds"] for _ in range(options.steps)]
            last = ", ".join(f"{name} {found[-1]:.3f} s" for name, found in seconds.items())
            print(f"turn {turn + 1}/{options.turns}: {last}", flush=True)
    steps = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        **{f"{name}_step_seconds": step for name, step in steps.items()},
        "encoder_over_prompt": steps["encoder"] / steps["prompt"],
        "decoder_ratio": steps["peft_decoder"] / steps["decoder"],
        "dropout": options.dropout,
        "threads": options.threads,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout rate on all sides")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each side")
    parser.add_argument("--turns", type=int, default=6, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--tiny", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
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
