"""The prompt as numpy files beside T5X's checkpoints, in the manner of Lester et al. (2021).

`MODEL_DIR/numpy_checkpoints/checkpoint_<step>/` holds `prompt.npy`, the folded prompt, and
`prompt_params.npz`, its factors; where T5X saves nothing itself, also `train_state.npz`, the
optimizer's slots and the step. `MODEL_DIR` may be a bucket (`gs://`): whatever TensorFlow reads.
"""

import dataclasses
import io
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from dpt_jax.errors import InputError
from dpt_jax.interop import save_factors, save_prompt
from dpt_jax.run_files import FACTORS, NUMPY_CHECKPOINTS, PROMPT

TRAIN_STATE = "train_state.npz"


def checkpoint_folder(model_dir: str, step: int) -> str:
    """Where the prompt of a step is."""
    return os.path.join(model_dir, NUMPY_CHECKPOINTS, f"checkpoint_{step}")


def write(
    folder: str,
    prompt: np.ndarray,
    params: Mapping[str, Any],
    train_state: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a step's prompt; each file appears whole or not at all, `prompt.npy` last.

    A folder without `prompt.npy` is unfinished. One that holds the same prompt already is left as
    it is, and one with another prompt (of a step that is trained again) is unfinished until it is
    written.

    Args:
      folder: see `checkpoint_folder`.
      prompt: the folded prompt, `[P, D]`.
      params: the prompt's own parameters, nested dicts.
      train_state: what else training needs to go on, flat.
    """
    from tensorflow.io import gfile

    names = [FACTORS, PROMPT]
    if train_state is not None:
        names.insert(0, TRAIN_STATE)
    finished = os.path.join(folder, PROMPT)
    with tempfile.TemporaryDirectory() as temporary:
        # A bucket has no renaming, but an object appears when all of it has arrived.
        local = Path(temporary) if "://" in folder else Path(folder)
        if gfile.exists(finished):
            if _unchanged(folder, params, train_state):
                return
            gfile.remove(finished)
            if train_state is None and gfile.exists(stale := os.path.join(folder, TRAIN_STATE)):
                # It belongs to the prompt that is replaced.
                gfile.remove(stale)
        if train_state is not None:
            save_factors(local / TRAIN_STATE, train_state)
        save_prompt(local, prompt, params)
        if local == Path(temporary):
            gfile.makedirs(folder)
            for name in names:
                gfile.copy(str(local / name), os.path.join(folder, name), overwrite=True)


@dataclasses.dataclass(frozen=True)
class TrainedPrompt:
    """What training goes on from where T5X saved nothing.

    Attributes:
      step: updates made.
      folder: where it was read.
      values: the prompt's parameters, the optimizer's slots and the step under T5X's names.
    """

    step: int
    folder: str
    values: dict[str, np.ndarray]


def latest_train_state(model_dir: str) -> TrainedPrompt | None:
    """The latest step that was written with its `train_state.npz`, or None."""
    from tensorflow.io import gfile

    pattern = os.path.join(model_dir, NUMPY_CHECKPOINTS, "checkpoint_*", TRAIN_STATE)
    steps = {}
    for path in gfile.glob(pattern):
        folder = os.path.dirname(path)
        match = re.fullmatch(r"checkpoint_(\d+)", os.path.basename(folder))
        if match and gfile.exists(os.path.join(folder, PROMPT)):
            steps[int(match[1])] = folder
    if not steps:
        return None
    step, folder = max(steps.items())
    params = _read(folder, FACTORS)
    values = {f"target/prompt/{name}": array for name, array in params.items()}
    return TrainedPrompt(step, folder, {**values, **_read(folder, TRAIN_STATE)})


def _read(folder: str, name: str) -> dict[str, np.ndarray]:
    from tensorflow.io import gfile

    path = os.path.join(folder, name)
    try:
        with gfile.GFile(path, "rb") as file:
            with np.load(io.BytesIO(file.read()), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise InputError(
            f"{path} cannot be read ({error}). Remove its folder to go on from an earlier step."
        ) from error


def _unchanged(
    folder: str, params: Mapping[str, Any], train_state: Mapping[str, Any] | None
) -> bool:
    def same(name, new):
        try:
            old = _read(folder, name)
        except InputError:
            return False
        return old.keys() == new.keys() and all(np.array_equal(old[k], new[k]) for k in new)

    return same(FACTORS, flatten_dict(params, sep="/")) and (
        train_state is None or same(TRAIN_STATE, train_state)
    )
