"""Predict for lines of text or JSON, with one prompt or several in the same batch.

  echo "is it red?" | dpt predict --model_dir=runs/rte
  dpt predict --model_dir=runs/rte --prompt cb=cb.npy --prompt wic=wic.npy --input=rows.jsonl

A line that starts with "{" is a JSON object with "inputs" and, optionally, "prompt", the name of
the prompt to use; the answer is the object with "output" added. Any other line is text, answered by
a line of text. Without "prompt" the run's own is used, or the only one that is given.
"""

import argparse
import contextlib
import itertools
import json
import pathlib
import sys
from typing import Any

from dpt_jax.cli import runs

HELP = "predict for text or jsonl"
# The run's own prompt, for lines that name none.
OWN = "run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    runs.add_arguments(parser)
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a prompt of any format, repeatable; the name is the file's when none is given",
    )
    parser.add_argument("--input", default="-", metavar="FILE", help="lines to read (default: -)")
    parser.add_argument("--output", default="-", metavar="FILE", help="where to (default: -)")
    parser.add_argument(
        "--window",
        type=int,
        default=1024,
        metavar="N",
        help="lines read before they are sorted by length, batched and answered (default: 1024)",
    )


def run(args: argparse.Namespace) -> None:
    """Reads, predicts and writes, a window of lines after the other."""
    from dpt_jax.errors import InputError

    if args.window < 1:
        raise InputError(f"--window is {args.window}; it must be at least 1.")
    if args.input != "-" and not pathlib.Path(args.input).is_file():
        raise InputError(f"--input = {args.input}: there is no such file.")
    config, vocabulary = runs.load_without_tasks(args)

    from dpt_jax import inference, run_files
    from dpt_jax.interop import load_prompt

    prompts: dict[str, Any] = {}
    prompts |= inference.load_prompts(_named(args.prompt), config.model.emb_dim)
    trained_step = None
    default = next(iter(prompts)) if len(prompts) == 1 else None
    if args.model_dir is not None:
        step = inference.step_of_run(args.model_dir, args.step)
        default = default or OWN
        if config.prompt is None:
            trained_step, prompts[OWN] = step, None
        else:
            prompts[OWN] = load_prompt(run_files.numpy_checkpoint(args.model_dir, step))
    if not prompts:
        raise InputError("Name a prompt: --model_dir of a run, or --prompt FILE.")
    prepared = inference.prepare_for(config, args.model_dir)
    if trained_step is not None:
        inference.with_trained(prepared, args.model_dir, trained_step)
    predictor = inference.Predictor(prepared, prompts, vocabulary)

    with contextlib.ExitStack() as stack:
        lines = sys.stdin if args.input == "-" else stack.enter_context(open(args.input))
        output = sys.stdout
        if args.output != "-":
            from dpt_jax.files import atomic_write

            temporary = stack.enter_context(atomic_write(args.output))
            output = stack.enter_context(open(temporary, "w"))
        first = 1
        while window := list(itertools.islice(lines, args.window)):
            records = [_parse(line, n, default) for n, line in enumerate(window, first)]
            outputs = predictor([r["inputs"] for r in records], [r["prompt"] for r in records])
            for line, text in zip(window, outputs, strict=True):
                if line.lstrip().startswith("{"):
                    text = json.dumps(json.loads(line) | {"output": text}, ensure_ascii=False)
                output.write(text + "\n")
            output.flush()
            first += len(window)


def _named(arguments: list[str]) -> dict[str, str]:
    named = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        named[name if equals else pathlib.Path(argument).stem] = path if equals else argument
    return named


def _parse(line: str, number: int, default: str | None) -> dict[str, str]:
    from dpt_jax.errors import InputError

    record = {"inputs": line.rstrip("\n")}
    if line.lstrip().startswith("{"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as e:
            raise InputError(f"Line {number} starts with a brace but is not JSON: {e}.") from e
        if not isinstance(record.get("inputs"), str):
            raise InputError(f'Line {number} has no text "inputs"; it has {sorted(record)}.')
    prompt = record.get("prompt", default)
    if prompt is None:
        raise InputError(
            f'Line {number} does not say which prompt to use; add "prompt" to it, or give --prompt '
            "only once."
        )
    return {"inputs": record["inputs"], "prompt": prompt}
