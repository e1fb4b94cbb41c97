"""Gin files and bindings, parsed into gin's global configuration."""

from collections.abc import Sequence
from typing import Any

import gin

from dpt_jax.errors import InputError
from dpt_jax.gin_utils.flags import parse_binding
from dpt_jax.gin_utils.macros import (
    check_macros,
    leave_out_what_is_not_named,
    set_macros,
    used_macros,
)
from dpt_jax.gin_utils.messages import ADD_RUN_FILE, PARSE_ERRORS, explain
from dpt_jax.gin_utils.parts import part
from dpt_jax.gin_utils.retired import as_now
from dpt_jax.gin_utils.search import look_in, quiet

# What `dpt train` builds of gin: a run on text, and one on images.
RUNS = ("RunConfig", "ImageRunConfig")


def parse(
    gin_files: Sequence[str],
    gin_bindings: Sequence[str] = (),
    gin_search_paths: Sequence[str] = (),
    of_run: bool = False,
) -> None:
    """Parses gin files and bindings into gin's global configuration, replacing what is there.

    Files are looked for in the working directory, then in `gin_search_paths`, then among the
    package's own, as in `runs/prompt_train.gin`.

    Args:
      gin_files: files, later ones override earlier ones.
      gin_bindings: bindings such as `BATCH_SIZE = 32`, which override all files.
      gin_search_paths: further folders to look in.
      of_run: one of `RUNS` is to be built of them, so that one of the files has to say how.

    Raises:
      InputError: for a file, name or parameter that does not exist, a value that cannot be parsed,
        a macro that nothing uses, or one that had to be set and is not; and for a run without a
        run file.
    """
    _parse_files(gin_files, gin_search_paths)
    for binding in gin_bindings:
        parse_binding(binding)
    if of_run and bound_run() is None:
        raise InputError(
            f"{_files_named(gin_files)} no run file, which gives a run its model, prompt and task. "
            f"{ADD_RUN_FILE}, before the others."
        )
    # A run on images has a head to train.
    leave_out_what_is_not_named(prompt_too=bound_run() == "ImageRunConfig")
    check_macros()


def bound_run() -> str | None:
    """Which of `RUNS` the parsed configuration gives a model to; None where there is none."""
    names = {
        selector.rpartition(".")[2]
        for (_, selector), arguments in gin.config._CONFIG.items()
        if "model" in arguments
    }
    return next((run for run in RUNS if run in names), None)


def parse_part(file: Any, root: str, gin_bindings: Sequence[str] = ()) -> None:
    """Parses of a run's `config.gin` what one configurable needs; nothing else is imported.

    Args:
      file: the file, without `include`.
      root: the configurable's name without its module, such as `RunConfig`.
      gin_bindings: as in `parse`.

    Raises:
      InputError: as `parse` does.
    """
    gin.clear_config(clear_constants=True)
    try:
        gin.parse_config(part(as_now(file, file.read_text()), root))
    except PARSE_ERRORS as e:
        raise InputError(explain(e)) from e
    for binding in gin_bindings:
        parse_binding(binding)
    check_macros()


def macros_of(gin_files: Sequence[str], gin_search_paths: Sequence[str] = ()) -> set[str]:
    """The macros that `gin_files` set or use; replaces the parsed configuration.

    Args:
      gin_files: files, as in `parse`.
      gin_search_paths: further folders to look in.

    Raises:
      InputError: for a file that does not exist or cannot be parsed.
    """
    _parse_files(gin_files, gin_search_paths)
    return used_macros() | set(set_macros())


def _files_named(gin_files: Sequence[str]) -> str:
    if len(gin_files) == 1:
        return f"{gin_files[0]} is"
    return f"Among {', '.join(gin_files)} is"


def _parse_files(gin_files: Sequence[str], gin_search_paths: Sequence[str]) -> None:
    gin.clear_config(clear_constants=True)
    look_in(gin_search_paths)
    try:
        with quiet():
            gin.parse_config_files_and_bindings(list(gin_files), None, finalize_config=False)
    except PARSE_ERRORS as e:
        raise InputError(explain(e)) from e
