"""Predict for lines of text or JSON, with one prompt or several in the same batch.

  echo "is it red?" | dpt predict --model_dir=runs/rte
  dpt predict --model_dir=runs/rte --prompt cb=cb.npy --prompt wic=wic.npy --input=rows.jsonl

A line that starts with "{" is a JSON object with "inputs" and, optionally, "prompt", the name of
the prompt to use; the answer is the object with "output" added. Any other line is text, answered by
a line of text, in which a space stands for a line break. Without "prompt" the run's own is used, or
the only one that is given.
"""

import argparse
import contextlib
import itertools
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from dpt_jax.cli import input_lines, outputs, runs

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
        help="a prompt or prefix of any format, repeatable; the file's name is its own by default",
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
    named = _named(args.prompt)
    if args.model_dir is not None and OWN in named:
        raise InputError(
            f"--prompt {named[OWN]} has the name {OWN!r}, which is that of the run's own prompt. "
            f"Give it another: --prompt NAME={named[OWN]}."
        )
    if args.input != "-" and not pathlib.Path(args.input).is_file():
        what = "is a folder" if pathlib.Path(args.input).is_dir() else "there is no such file"
        raise InputError(f"--input = {args.input}: {what}. Name a file of lines, or - for stdin.")
    if args.output != "-":
        outputs.require_file(args.output, "--output")
    config, vocabulary = runs.load_without_tasks(args)
    runs.require_text(config, "dpt predict", "Use dpt evaluate with --predictions=DIR.")

    from dpt_jax import inference

    prompts: dict[str, Any] = {}
    prompts |= inference.load_prompts(named, config.model)
    trained_step = None
    default = next(iter(prompts)) if len(prompts) == 1 else None
    if args.model_dir is not None:
        step = inference.step_of_run(args.model_dir, args.step)
        default = default or OWN
        trained_step, prompts[OWN] = step, inference.adapter_of_run(config, args.model_dir, step)
    if not prompts:
        raise InputError("Name a prompt: --model_dir of a run, or --prompt FILE.")
    prepared = inference.prepare_for(config, args.model_dir)
    if trained_step is not None:
        inference.with_trained(prepared, args.model_dir, trained_step)
    predictor = inference.Predictor(prepared, prompts, vocabulary)

    if args.input == "-":
        _answer(predictor, sys.stdin.buffer, args, default)
        return
    with open(args.input, "rb") as file:
        # A file can be read twice: its last line is not found to be wrong when all else is done.
        for line in input_lines.read(file):
            predictor.check(line.inputs, _prompt_of(line, default), line.number)
        file.seek(0)
        _answer(predictor, file, args, default)


def _answer(
    predictor: Any, file: Iterable[bytes], args: argparse.Namespace, default: str | None
) -> None:
    from dpt_jax.files import atomic_write

    lines = input_lines.read(file)
    with contextlib.ExitStack() as stack:
        output = sys.stdout
        if args.output != "-":
            temporary = stack.enter_context(atomic_write(args.output))
            output = stack.enter_context(open(temporary, "w", encoding="utf-8"))
        while window := list(itertools.islice(lines, args.window)):
            texts = [line.inputs for line in window]
            names = [_prompt_of(line, default) for line in window]
            answers = predictor(texts, names, first_row=window[0].number)
            for line, answer in zip(window, answers, strict=True):
                output.write(line.answered(answer) + "\n")
            output.flush()


def _named(arguments: Sequence[str]) -> dict[str, str]:
    """The paths of `--prompt [NAME=]FILE` by name.

    What stands for a file that is there is its path, equals signs and all: `dpt sweep` has such
    names for its folders.

    Raises:
      InputError: when two have one name, or an argument can be read in two ways or in none.
    """
    from dpt_jax.errors import InputError
    from dpt_jax.paths import as_path

    named: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        is_path = not (name and equals) or _exists(argument)
        if not is_path and not _exists(path):
            raise InputError(
                f"--prompt {argument}: there is no {path} to be named {name!r}, and no {argument}."
            )
        if is_path and name and equals and "/" not in name and _exists(path):
            raise InputError(
                f"--prompt {argument} is a file, and {path} is one, too. Write ./{argument} for "
                f"the first, {name}=./{path} for the other."
            )
        if is_path:
            file = as_path(argument)
            # A folder's name has no suffix: that of `lr=0.1` is whole.
            name, path = file.name if file.is_dir() else file.stem, argument
        if name in named:
            raise InputError(
                f"Two prompts have the name {name!r}: {named[name]} and {path}. Give each its own: "
                f"--prompt NAME={path}."
            )
        named[name] = path
    return named


def _exists(path: str) -> bool:
    from dpt_jax.errors import InputError
    from dpt_jax.paths import as_path

    try:
        return as_path(path).exists()
    except InputError:
        return False  # `NAME=gs://…` as a whole is no place.


def _prompt_of(line: input_lines.Line, default: str | None) -> str:
    from dpt_jax.errors import InputError

    prompt = default if line.prompt is None else line.prompt
    if prompt is None:
        raise InputError(
            f'Line {line.number} does not say which prompt to use; add "prompt" to it, or give '
            "--prompt only once."
        )
    return prompt
