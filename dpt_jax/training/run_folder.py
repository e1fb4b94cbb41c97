"""A run's folder: what it was started with, and where its results are."""

import dataclasses
import json
import pathlib
import socket
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from dpt_jax import __version__
from dpt_jax.errors import InputError
from dpt_jax.files import TEMPORARY_MARK, atomic_write, write_json
from dpt_jax.run_files import CHECKPOINTS, CONFIG, IDENTITY, METRICS, NUMPY_CHECKPOINTS
from dpt_jax.training.config import TrainingConfig
from dpt_jax.training.problem import Problem

# What a run writes before its identity could be missing.
_OTHER_TRACES = (CHECKPOINTS, NUMPY_CHECKPOINTS, METRICS)


def identity(config: TrainingConfig, problem: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change when a run is continued, as flat JSON.

    Args:
      config: how to train.
      problem: `Problem.identity`, or as much of it as is known.
    """
    frozen = None if config.frozen_dtype is None else str(config.frozen_dtype)
    own = {
        # With the problem's data, these decide which examples a step sees.
        "data.batch_size": config.batch_size,
        "data.random_seed": config.random_seed,
        "frozen_dtype": frozen,
    }
    return json.loads(json.dumps(own | flat(problem)))


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
    config: TrainingConfig, problem: Mapping[str, Any], unknown: Collection[str] = ()
) -> bool:
    """Whether `model_dir` holds this run already (True) or nothing (False). Writes nothing.

    Args:
      config: how to train.
      problem: `Problem.identity`, or as much of it as is known.
      unknown: names in it that are not known yet, and not compared.

    Raises:
      InputError: when it holds another run, with every difference, or a run of unknown identity.
    """
    folder = pathlib.Path(config.model_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"MODEL_DIR = {folder} is a file; set --gin.MODEL_DIR to a folder.")
    path = folder / IDENTITY
    if not path.exists():
        traces = [name for name in _OTHER_TRACES if _holds_something(folder / name)]
        if traces:
            raise InputError(
                f"MODEL_DIR = {folder} holds {', '.join(traces)} but no {IDENTITY}, so it is not "
                "known which run they belong to. Set --gin.MODEL_DIR to another folder."
            )
        return False
    saved = json.loads(path.read_text())
    asked = identity(config, problem)
    names = (saved.keys() | asked.keys()) - set(unknown)
    differing = sorted(name for name in names if saved.get(name) != asked.get(name))
    if differing:
        lines = [f"  {k}: saved {saved.get(k)!r}, now {asked.get(k)!r}" for k in differing]
        raise InputError(
            f"MODEL_DIR = {folder} holds a run that differs from the one asked for; nothing was "
            "changed:\n" + "\n".join(lines) + "\nSet --gin.MODEL_DIR to another folder for a new "
            "run, or use the saved settings to continue this one."
        )
    return True


def check_shared(model_dir: str | pathlib.Path) -> None:
    """Checks that this process sees what the first one has written.

    Raises:
      InputError: it does not, also after a minute, which network file systems may take.
    """
    path = pathlib.Path(model_dir) / IDENTITY
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise InputError(
                f"MODEL_DIR = {model_dir} on {socket.gethostname()} is not the folder that process "
                f"0 writes to: it has no {IDENTITY}. Set --gin.MODEL_DIR to a folder that all "
                "machines share."
            )
        time.sleep(0.5)


def _holds_something(path: pathlib.Path) -> bool:
    # A run killed as it started may leave a folder, but nothing in it.
    return any(path.iterdir()) if path.is_dir() else path.exists()


def clear_unfinished(model_dir: str | pathlib.Path) -> None:
    """Deletes the temporary files that writers leave when they are killed."""
    for path in pathlib.Path(model_dir).rglob(f".*{TEMPORARY_MARK}*"):
        path.unlink(missing_ok=True)


def write_identity(config: TrainingConfig, problem: Problem, gin_config: str) -> None:
    """Writes what a run was started with, the identity last: it says that the run exists.

    Args:
      config: how to train.
      problem: what is trained.
      gin_config: `config.gin`; none is written when it is empty.
    """
    folder = pathlib.Path(config.model_dir)
    for name, value in problem.files.items():
        if isinstance(value, bytes):
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(value)
        else:
            write_json(folder / name, value)
    if gin_config:
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(gin_config)
    write_json(folder / IDENTITY, identity(config, problem.identity))
