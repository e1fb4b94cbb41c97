"""A run's folder: what it was started with, and where its results are."""

import dataclasses
import json
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax

from dpt_jax import __version__
from dpt_jax.errors import InputError
from dpt_jax.files import TEMPORARY_MARK, atomic_write, write_json
from dpt_jax.prompts import SoftPrompt
from dpt_jax.run_files import CHECKPOINTS, CONFIG, FEW_SHOT, IDENTITY, METRICS, NUMPY_CHECKPOINTS
from dpt_jax.training.config import RunConfig

# What a run writes before its identity could be missing.
_OTHER_TRACES = (CHECKPOINTS, NUMPY_CHECKPOINTS, METRICS)


def describe_prompt(prompt: SoftPrompt | None) -> dict[str, Any] | None:
    """The method and its sizes; not its initializers, which matter only at the start."""
    if prompt is None:
        return None
    fields = {f.name: getattr(prompt, f.name) for f in dataclasses.fields(prompt)}
    sizes = {k: v for k, v in fields.items() if isinstance(v, int | float | str)}
    sizes.pop("name", None)
    return {"method": type(prompt).__name__} | sizes


def identity(config: RunConfig, backbone_fingerprint: int | None = None) -> dict[str, Any]:
    """What must not change when a run is continued, as flat JSON."""
    model = dataclasses.asdict(config.model)
    model["dtype"] = config.model.dtype.name
    model["mlp_activations"] = list(config.model.mlp_activations)
    # Memory against time, and nothing else.
    del model["remat_policy"]
    parts: dict[str, Any] = {
        "model": model,
        "prompt": describe_prompt(config.prompt),
        "task": {
            "mixture_or_task_name": config.mixture_or_task_name,
            "task_feature_lengths": dict(config.task_feature_lengths),
            "train_split": config.train_split,
            "overlength": config.overlength,
        },
        # These decide which examples a step sees.
        "data": {
            "batch_size": config.batch_size,
            "num_buckets": config.num_buckets,
            "random_seed": config.random_seed,
        },
        "trainable": config.trainable_pattern,
        "frozen_dtype": None if config.frozen_dtype is None else str(config.frozen_dtype),
    }
    if backbone_fingerprint is not None:
        parts["backbone_fingerprint"] = backbone_fingerprint
    return _flatten(parts)


def everything(config: RunConfig, backbone_fingerprint: int, examples: int) -> dict[str, Any]:
    """What must be the same in all processes of a run, as flat JSON.

    Args:
      config: the run.
      backbone_fingerprint: of the frozen parameters.
      examples: a checksum of the tokenized examples.
    """
    plain = {
        field.name: value
        for field in dataclasses.fields(config)
        if isinstance(value := getattr(config, field.name), int | float | str | None)
    }
    return (
        identity(config, backbone_fingerprint)
        | plain
        | {"mesh": list(config.mesh), "examples": examples}
        | {"dpt_jax": __version__, "jax": jax.__version__}
    )


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def check_identity(config: RunConfig, backbone_fingerprint: int | None = None) -> bool:
    """Whether `model_dir` holds this run already (True) or nothing (False). Writes nothing.

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
    asked = json.loads(json.dumps(identity(config, backbone_fingerprint)))
    if backbone_fingerprint is None:
        saved.pop("backbone_fingerprint", None)
    differing = sorted(k for k in saved.keys() | asked.keys() if saved.get(k) != asked.get(k))
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


def write_identity(
    config: RunConfig,
    backbone_fingerprint: int,
    gin_config: str,
    few_shot: Mapping[str, list[list[int]]],
) -> None:
    """Writes what a run was started with, the identity last: it says that the run exists.

    Args:
      config: the run.
      backbone_fingerprint: of the frozen parameters.
      gin_config: `config.gin`; none is written when it is empty.
      few_shot: the ids of the training examples of each few-shot task, for `few_shot.json`, which
        is written when there is such a task.
    """
    folder = pathlib.Path(config.model_dir)
    if few_shot:
        write_json(folder / FEW_SHOT, few_shot)
    if gin_config:
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(gin_config)
    write_json(folder / IDENTITY, identity(config, backbone_fingerprint))
