"""Flags that name a trained run, or the gin files of a model without one."""

import argparse
from typing import Any

from dpt_jax import run_files
from dpt_jax.cli.gin_flags import add_gin_flags, search_paths
from dpt_jax.errors import InputError
from dpt_jax.paths import as_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--model_dir`, `--step`, `--gin_file` and `--gin_search_paths`."""
    parser.add_argument("--model_dir", metavar="DIR", help="a run's folder (MODEL_DIR)")
    parser.add_argument(
        "--step",
        default="best",
        metavar="STEP",
        help="which of the run's saved prompts: best, latest or a number (default: best)",
    )
    add_gin_flags(
        parser, "gin files of the model and task, instead of or on top of --model_dir's config.gin"
    )


def load_config(args: argparse.Namespace) -> Any:
    """The settings of `--model_dir` or `--gin_file`, with `--gin.NAME=VALUE` on top."""
    from dpt_jax import gin_utils
    from dpt_jax.problems import kinds

    files, bindings = list(args.gin_file), list(args.gin_bindings)
    if args.model_dir is not None:
        files.insert(0, str(_config_gin(args.model_dir)))
    elif not files:
        raise InputError("Name a run with --model_dir, or a model and task with --gin_file.")
    else:
        # The model and task are used. The prompt is a file, and how to train does not matter.
        bindings = ["MODEL_DIR = ''", "EPOCHS = 1", "PROMPT = None", *bindings]
    gin_utils.parse(files, bindings, search_paths(args), of_run=True)
    return kinds.build()


def is_of_images(config: Any) -> bool:
    """Whether settings are those of a run on images."""
    from dpt_jax.problems.image_config import ImageRunConfig

    return isinstance(config, ImageRunConfig)


def require_text(config: Any, command: str, instead: str) -> None:
    """Raises InputError for the settings of a run on images, where a command takes text alone."""
    if is_of_images(config):
        named = config.model_dir or "that of --gin_file"
        raise InputError(f"{command} takes runs on text, but {named} is one on images. {instead}")


def load_without_tasks(args: argparse.Namespace) -> tuple[Any, Any]:
    """The RunConfig, and the vocabulary that the run keeps: SeqIO and the tasks stay out.

    Returns:
      The same as `load_config`, with a vocabulary of None, where the run keeps none, or where a
      gin file or binding may be one of the tasks' own.
    """
    from dpt_jax import gin_utils
    from dpt_jax.data import kept_vocabulary
    from dpt_jax.training.config import RunConfig

    if args.model_dir is None or args.gin_file:
        return load_config(args), None
    names = {binding.partition(" = ")[0] for binding in args.gin_bindings}
    of_tasks = names - set(gin_utils.MACROS) | {name for name in names if "MIXTURE" in name}
    path = _config_gin(args.model_dir)
    vocabulary = kept_vocabulary.read(args.model_dir)
    if vocabulary is None or of_tasks:
        return load_config(args), None
    try:
        gin_utils.parse_part(path, RunConfig.__name__, args.gin_bindings)
    except InputError:
        # A part may not stand alone; what is wrong with the whole will be said of the whole.
        return load_config(args), None
    return gin_utils.build(RunConfig), vocabulary


def _config_gin(model_dir: str) -> Any:
    from dpt_jax.analysis import t5x_runs

    path = as_path(model_dir) / run_files.CONFIG
    if t5x_runs.is_run(model_dir):
        saved = run_files.numpy_checkpoint(model_dir, 0).with_name("checkpoint_<step>")
        raise InputError(
            f"--model_dir = {model_dir} is a folder of t5x.train. Name the model and task with "
            f"--gin_file, and the prompt with --prompt={saved}."
        )
    if not path.is_file():
        raise InputError(
            f"--model_dir = {model_dir} has no {run_files.CONFIG}; it is not the folder of a run "
            "of dpt train."
        )
    return path
