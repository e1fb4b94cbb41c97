"""What is trained as numpy files beside T5X's checkpoints, in the manner of Lester et al. (2021).

`MODEL_DIR/numpy_checkpoints/checkpoint_<step>/` holds `prompt.npy`, the folded prompt, and
`prompt_params.npz`, its factors, or `prefix.npz` and `prefix_params.npz`, the same of a prefix, or
all four; where T5X saves nothing itself, also `train_state.npz`, the optimizer's slots and the
step. `MODEL_DIR` may be a bucket (`gs://`): whatever TensorFlow reads.
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
from dpt_jax.interop import save_factors
from dpt_jax.interop.adapters import Adapter, save_adapter
from dpt_jax.run_files import FACTORS, NUMPY_CHECKPOINTS, PREFIX, PREFIX_FACTORS, PROMPT

TRAIN_STATE = "train_state.npz"
# The parameters of each part, and the file that shows that the part is whole.
_FACTORS = {"prompt": FACTORS, "prefix": PREFIX_FACTORS}
_WHOLE = {"prompt": PROMPT, "prefix": PREFIX}


def checkpoint_folder(model_dir: str, step: int) -> str:
    """Where the prompt of a step is."""
    return os.path.join(model_dir, NUMPY_CHECKPOINTS, f"checkpoint_{step}")


def write(
    folder: str,
    adapter: Adapter,
    params: Mapping[str, Any],
    train_state: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes what is trained at a step; each file appears whole or not at all.

    `prompt.npy` and `prefix.npz` follow their factors, and the train state follows all: a folder
    without it is not gone on from. One that holds the same already is left as it is, and one that
    holds something else (of a step that is trained again) is unfinished until it is written.

    Args:
      folder: see `checkpoint_folder`.
      adapter: the folded prompt and prefix.
      params: the parameters of both, nested dicts under `prompt` and `prefix`.
      train_state: what else training needs to go on, flat.
    """
    from tensorflow.io import gfile

    if _unchanged(folder, params, train_state):
        return
    for name in (TRAIN_STATE, *_WHOLE.values()):
        if gfile.exists(stale := os.path.join(folder, name)):
            gfile.remove(stale)
    with tempfile.TemporaryDirectory() as temporary:
        # A bucket has no renaming, but an object appears when all of it has arrived.
        local = Path(temporary) if "://" in folder else Path(folder)
        save_adapter(local, adapter, params)
        if train_state is not None:
            save_factors(local / TRAIN_STATE, train_state)
        if local == Path(temporary):
            gfile.makedirs(folder)
            for name in (*_FACTORS.values(), *_WHOLE.values(), TRAIN_STATE):
                if (local / name).exists():
                    gfile.copy(str(local / name), os.path.join(folder, name), overwrite=True)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training goes on from where T5X saved nothing.

    Attributes:
      step: updates made.
      folder: where it was read.
      values: the trained parameters, the optimizer's slots and the step under T5X's names.
    """

    step: int
    folder: str
    values: dict[str, np.ndarray]


def latest_train_state(model_dir: str) -> Trained | None:
    """The latest step that was written with its `train_state.npz`, or None."""
    from tensorflow.io import gfile

    pattern = os.path.join(model_dir, NUMPY_CHECKPOINTS, "checkpoint_*", TRAIN_STATE)
    steps = {}
    for path in gfile.glob(pattern):
        folder = os.path.dirname(path)
        match = re.fullmatch(r"checkpoint_(\d+)", os.path.basename(folder))
        # Earlier versions wrote the train state before the prompt.
        if match and _parts(folder):
            steps[int(match[1])] = folder
    if not steps:
        return None
    step, folder = max(steps.items())
    values = {
        f"target/{part}/{name}": array
        for part in _parts(folder)
        for name, array in _read(folder, _FACTORS[part]).items()
    }
    return Trained(step, folder, {**values, **_read(folder, TRAIN_STATE)})


def _parts(folder: str) -> list[str]:
    """Which of prompt and prefix are whole in a folder."""
    from tensorflow.io import gfile

    return [part for part, name in _WHOLE.items() if gfile.exists(os.path.join(folder, name))]


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
    def same(name: str, new: Mapping[str, Any]) -> bool:
        try:
            old = _read(folder, name)
        except InputError:
            return False
        return old.keys() == new.keys() and all(np.array_equal(old[k], new[k]) for k in new)

    return (
        _parts(folder) == [part for part in _WHOLE if part in params]
        and all(same(_FACTORS[part], flatten_dict(own, sep="/")) for part, own in params.items())
        and (train_state is None or same(TRAIN_STATE, train_state))
    )
