"""A run's folder: what it was started with, and where its results are."""

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from dpt_jax import locks, run_files
from dpt_jax.errors import InputError
from dpt_jax.files import (
    clear_unfinished,
    entries,
    json_ready,
    remove,
    write_bytes,
    write_json,
    write_text,
)
from dpt_jax.paths import as_path
from dpt_jax.run_files import CHECKPOINTS, CONFIG, IDENTITY, METRICS, NUMPY_CHECKPOINTS
from dpt_jax.training import recipe
from dpt_jax.training.config import TrainingConfig
from dpt_jax.training.problem import Problem
from dpt_jax.version import __version__

# What a run writes before its identity could be missing.
_OTHER_TRACES = (CHECKPOINTS, NUMPY_CHECKPOINTS, METRICS)
# What the next run in a folder where nothing was trained may not write itself.
_OF_ONE_RUN = (
    run_files.FEW_SHOT,
    run_files.START,
    run_files.IMAGES,
    run_files.VOCABULARY,
    run_files.PIECES,
    run_files.TOKENIZER,
    run_files.METRICS,
    run_files.PREDICTIONS,
)


def identity(
    config: TrainingConfig, problem: Mapping[str, Any], gin_config: str = ""
) -> dict[str, Any]:
    """What must not change when a run is continued, as flat JSON.

    Args:
      config: how to train.
      problem: `Problem.identity`, or as much of it as is known.
      gin_config: the operative gin configuration, or as much of it as is known.
    """
    frozen = None if config.frozen_dtype is None else str(config.frozen_dtype)
    own = {
        # With the problem's data, these decide which examples a step sees.
        "data.batch_size": config.batch_size,
        "data.random_seed": config.random_seed,
        "frozen_dtype": frozen,
    }
    return json.loads(json.dumps(own | recipe.describe(config, gin_config) | flat(problem)))


def everything(config: TrainingConfig, problem: Problem) -> dict[str, Any]:
    """What must be the same in all processes of a run, as flat JSON."""
    plain = {
        field.name: value
        for field in dataclasses.fields(config)
        if isinstance(value := getattr(config, field.name), int | float | str | None)
    }
    return (
        identity(config, problem.identity)
        | plain
        | {"mesh": list(config.mesh), **problem.facts()}
        | {"dpt_jax": __version__, "jax": jax.__version__}
    )


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, names joined by dots."""
    return flatten_dict(dict(tree), sep=".")


def check_identity(
    config: TrainingConfig,
    problem: Mapping[str, Any],
    unknown: Collection[str] = (),
    gin_config: str = "",
) -> bool:
    """Whether `model_dir` holds this run already (True) or nothing of worth. Writes nothing.

    A folder in which nothing has been trained yet is no run's: what was asked for in vain, a typing
    error say, must not stand in the way of what is asked for next.

    Args:
      config: how to train.
      problem: `Problem.identity`, or as much of it as is known.
      unknown: names in it that are not known yet, and not compared.
      gin_config: the operative gin configuration, or as much of it as is known.

    Raises:
      InputError: when it holds another run, with every difference, or a run of unknown identity.
    """
    if not os.fspath(config.model_dir):
        raise InputError("MODEL_DIR is empty; set --gin.MODEL_DIR to the run's folder.")
    folder = as_path(config.model_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"MODEL_DIR = {folder} is a file; set --gin.MODEL_DIR to a folder.")
    saved = _saved_identity(folder)
    if saved is None:
        traces = [name for name in _OTHER_TRACES if _holds_something(folder / name)]
        if traces:
            raise InputError(
                f"MODEL_DIR = {folder} holds {', '.join(traces)} but no {IDENTITY}, so it is not "
                "known which run they belong to. Set --gin.MODEL_DIR to another folder."
            )
        return False
    lines = _differences(config, saved, identity(config, problem, gin_config), unknown, gin_config)
    if lines and run_files.holds_training(folder):
        raise InputError(
            f"MODEL_DIR = {folder} holds a run that differs from the one asked for; nothing was "
            "changed:\n" + "\n".join(lines) + "\nSet --gin.MODEL_DIR to another folder for a new "
            "run, or use the saved settings to continue this one."
        )
    return not lines


def _saved_identity(folder: Any) -> dict[str, Any] | None:
    try:
        return run_files.read_json(
            folder / IDENTITY,
            "It says which run the folder holds. Set --gin.MODEL_DIR to another folder, or copy "
            "this one again.",
        )
    except FileNotFoundError:
        return None


def _differences(
    config: TrainingConfig,
    saved: Mapping[str, Any],
    asked: Mapping[str, Any],
    unknown: Collection[str],
    gin_config: str,
) -> list[str]:
    """What differs, a line each."""
    lines = []
    for name in sorted((saved.keys() | asked.keys()) - set(unknown)):
        before, now = saved.get(name), asked.get(name)
        if before == now:
            continue
        if not recipe.is_part(name):
            lines.append(f"  {name}: saved {before!r}, now {now!r}")
        # Earlier versions kept no recipe, and another optimizer has other settings.
        elif name in saved and name in asked:
            flag, value = recipe.shown(config, name, now, gin_config)
            lines.append(
                f"  {flag}: saved {recipe.shown(config, name, before, gin_config)[1]}, now {value}"
            )
    return lines


def check_files(config: TrainingConfig, problem: Problem) -> None:
    """Checks that a run goes on with the files that it began with: its vocabulary, its few shots.

    Raises:
      InputError: when one of `Problem.files` is another one than the folder's.
    """
    folder = as_path(config.model_dir)
    if not run_files.holds_training(folder):
        return
    for name, now in problem.files.items():
        path = folder / name
        if not path.exists():
            continue  # Earlier versions kept none.
        if isinstance(now, bytes):
            same = path.read_bytes() == now
        else:
            saved = run_files.read_json(path, "Copy the run's folder again.")
            same = all(saved[key] == json_ready(now[key]) for key in saved.keys() & now.keys())
        if not same:
            raise InputError(
                f"MODEL_DIR = {folder} holds a run that began with another {name}; nothing was "
                "changed. Set --gin.MODEL_DIR to another folder for a new run, or continue this "
                "one with the task and the vocabulary that it began with."
            )


def keeps_recipe(model_dir: str | os.PathLike) -> bool:
    """Whether a run's folder says by which recipe it was trained; earlier versions' do not."""
    return any(map(recipe.is_part, _saved_identity(as_path(model_dir)) or {}))


def locked(model_dir: str | os.PathLike) -> contextlib.AbstractContextManager[locks.Lock]:
    """A block in which no other run writes into the folder, which is made.

    One process of a run holds the lock.

    Raises:
      InputError: another run is training there, or the folder cannot be written.
    """
    return locks.locked(
        as_path(model_dir) / run_files.LOCK,
        "--gin.MODEL_DIR",
        f"Another run is training in MODEL_DIR = {model_dir}",
    )


def check_shared(model_dir: str | os.PathLike) -> None:
    """Checks that this process sees what the first one has written.

    Raises:
      InputError: it does not, also after a minute, which network file systems may take.
    """
    path = as_path(model_dir) / IDENTITY
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise InputError(
                f"MODEL_DIR = {model_dir} on {socket.gethostname()} is not the folder that process "
                f"0 writes to: it has no {IDENTITY}. Set --gin.MODEL_DIR to a folder that all "
                "machines share."
            )
        time.sleep(0.5)


def _holds_something(path: Any) -> bool:
    # A run killed as it started may leave a folder, but nothing in it.
    return bool(entries(path)) if path.is_dir() else path.exists()


def begin(config: TrainingConfig, problem: Problem, gin_config: str) -> None:
    """Writes what a run was started with, the identity last: it says that the run exists.

    What killed writers left is cleared, and what another run left that came to nothing.

    Args:
      config: how to train.
      problem: what is trained.
      gin_config: `config.gin`; none is written when it is empty.
    """
    folder = as_path(config.model_dir)
    clear_unfinished(folder)
    if not check_identity(config, problem.identity, gin_config=gin_config):
        for name in (*_OF_ONE_RUN, *(() if gin_config else (CONFIG,))):
            remove(folder / name)
    for name, value in problem.files.items():
        if isinstance(value, bytes):
            write_bytes(folder / name, value)
        else:
            write_json(folder / name, value)
    if gin_config:
        write_text(folder / CONFIG, gin_config)
    write_json(folder / IDENTITY, identity(config, problem.identity, gin_config))
