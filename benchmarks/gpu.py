"""T5-Large in bfloat16 on a GPU, ours against PEFT's: a training step and a batch's generation.

    python benchmarks/gpu.py                       # on a machine with a GPU, JAX and PyTorch for it
    python benchmarks/gpu.py --device=cpu --tiny   # to see that it runs

T5 1.0 Large's shape with random weights, 100 prompt tokens, 32 rows of 512 source and 16 target
tokens, AdamW, no dropout. Ours has the attention that `ATTENTION` names (`--attention`), theirs the
one that Hugging Face's T5 has by default. The sides take turns, each in a process of its own.

The last line is a JSON object:
  step_seconds, generate_seconds   medians; theirs with peft_ in front, and the ratios, theirs over
                                   ours.
  peak_bytes, peft_peak_bytes      the most device memory that each side has held, both kinds of
                                   work and the weights included (on a CPU, the process's memory).
  adamw_update_seconds, orthogonal_update_seconds
                                   an update of ours by itself, the launch of it included: medians.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys

import processes
from sizes import LEARNING_RATE, TINY, WEIGHT_DECAY, Size
from train_step import make_batch

T5_LARGE = Size(
    emb_dim=1024,
    num_heads=16,
    mlp_dim=4096,
    num_layers=24,
    batch_size=32,
    source_length=512,
    target_length=16,
)
KINDS = ("step", "generate")


def serve(options: argparse.Namespace, size: Size) -> None:
    """The child: steps and generations on demand."""
    if options.side == "ours":
        from ours import Ours

        model = Ours(size, 0.0, dtype="bfloat16", attention=options.attention)
        handlers = {"peak": our_peak, "updates": lambda: updates(model)}
    else:
        from theirs import Theirs

        device = {"gpu": "cuda"}.get(options.device, options.device)
        model = Theirs(size, 0.0, os.cpu_count() or 1, dtype="bfloat16", device=device)
        handlers = {"peak": their_peak}
    batch = make_batch(size, seed=0)
    source = batch["encoder_input_tokens"]
    runs = {
        "step": lambda: model.train(batch),
        "generate": lambda: model.generate(source, size.target_length),
    }
    timed = {
        name: lambda run=run: {"seconds": processes.seconds(run)} for name, run in runs.items()
    }
    processes.serve(timed | handlers)


def our_peak() -> dict[str, int]:
    """The most memory of its device that JAX has held in this process."""
    import jax

    # None on a CPU.
    held = jax.local_devices()[0].memory_stats() or {}
    return {"bytes": held.get("peak_bytes_in_use", processes.peak_memory_bytes())}


def their_peak() -> dict[str, int]:
    """The most memory of its device that PyTorch has held in this process."""
    import torch

    if not torch.cuda.is_initialized():
        return {"bytes": processes.peak_memory_bytes()}
    return {"bytes": torch.cuda.max_memory_allocated()}


def updates(model) -> dict[str, float]:
    """Seconds of an update by AdamW and by the fast recipe's orthogonal steps."""
    import optax

    from dpt_jax.training.optimizers import orthogonal

    return {
        "adamw": model.update_seconds(optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY), 200),
        "orthogonal": model.update_seconds(orthogonal(LEARNING_RATE), 200),
    }


def measure(options: argparse.Namespace) -> dict[str, float | str]:
    """Runs both sides in turn and compares them."""
    common = ["--device", options.device, "--attention", options.attention]
    common += ["--tiny"] if options.tiny else []
    platform = {"gpu": "cuda"}.get(options.device, options.device)
    taken = {(kind, name): [] for kind in KINDS for name in ("ours", "theirs")}
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                processes.start(__file__, ["--side", name, *common], os.cpu_count() or 1, platform)
            )
            for name in ("ours", "theirs")
        }
        for turn in range(options.turns + 1):
            print(f"turn {turn} of {options.turns}", file=sys.stderr, flush=True)
            for kind, name in taken:
                seconds = sides[name].ask(kind)["seconds"]
                # The first one compiles, or fills caches.
                if turn:
                    taken[kind, name].append(seconds)
        peaks = {name: side.ask("peak")["bytes"] for name, side in sides.items()}
        updated = sides["ours"].ask("updates")
    found: dict[str, float | str] = {"device": options.device, "attention": options.attention}
    for kind in KINDS:
        ours, theirs = (statistics.median(taken[kind, name]) for name in ("ours", "theirs"))
        found |= {f"{kind}_seconds": ours, f"peft_{kind}_seconds": theirs}
        found[f"{kind}_ratio"] = theirs / ours
    found |= {"peak_bytes": peaks["ours"], "peft_peak_bytes": peaks["theirs"]}
    return found | {f"{name}_update_seconds": taken for name, taken in updated.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="what to run on")
    parser.add_argument("--attention", default="auto", help="ours (ATTENTION)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each side")
    parser.add_argument("--tiny", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = TINY if options.tiny else T5_LARGE
    if options.side:
        serve(options, size)
        return
    print(json.dumps(measure(options) | {"size": str(dataclasses.asdict(size))}))


if __name__ == "__main__":
    main()
