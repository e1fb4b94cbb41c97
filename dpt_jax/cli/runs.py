"""Flags that name a trained run, or the gin files of a model without one."""

import argparse
import pathlib
from typing import Any

from dpt_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--model_dir`, `--step`, `--gin_file` and `--gin_search_paths`."""
    parser.add_argument("--model_dir", metavar="DIR", help="a run's folder (MODEL_DIR)")
    parser.add_argument(
        "--step",
        default="best",
        metavar="STEP",
        help="which of the run's saved prompts: best, latest or a number (default: best)",
    )
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin files of the model and task, instead of or on top of --model_dir's config.gin",
    )
    parser.add_argument("--gin_search_paths", action="append", default=[], metavar="DIR")


def load_config(args: argparse.Namespace) -> Any:
    """The RunConfig of `--model_dir` or `--gin_file`, with `--gin.NAME=VALUE` on top."""
    from dpt_jax import gin_utils
    from dpt_jax.cli.train import search_paths
    from dpt_jax.run_files import CONFIG
    from dpt_jax.training.config import RunConfig

    files, bindings = list(args.gin_file), list(args.gin_bindings)
    if args.model_dir is not None:
        path = pathlib.Path(args.model_dir) / CONFIG
        if not path.is_file():
            raise InputError(
                f"--model_dir = {args.model_dir} has no {CONFIG}; it is not the folder of a run "
                "of dpt train."
            )
        files.insert(0, str(path))
    elif not files:
        raise InputError("Name a run with --model_dir, or a model and task with --gin_file.")
    else:
        # The model and task are used. The prompt is a file, and how to train does not matter.
        bindings = ["MODEL_DIR = ''", "EPOCHS = 1", "PROMPT = None", *bindings]
    gin_utils.parse(files, bindings, search_paths(args))
    return gin_utils.build(RunConfig)
