"""Prompts in files: the folded prompt as `.npy`, the trained factors as `.npz`.

A run keeps both for every step it saves, in `numpy_checkpoints/checkpoint_<step>/` as T5X's numpy
checkpoints are laid out: `prompt.npy` and `prompt_params.npz`.
"""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dpt_jax.errors import InputError
from dpt_jax.files import atomic_write
from dpt_jax.interop.tensors import flatten, unflatten

PROMPT = "prompt.npy"
FACTORS = "prompt_params.npz"
CHECKPOINTS = "numpy_checkpoints"


def save_prompt(
    path: str | os.PathLike,
    prompt: Float[Any, "length embed"],
    params: Mapping[str, Any] | None = None,
) -> None:
    """Writes a prompt; every file appears whole or not at all.

    Args:
      path: a `.npy` file, or a folder, which gets `prompt.npy` and, given `params`,
        `prompt_params.npz`. What is there is replaced.
      prompt: the folded prompt; written as float32.
      params: the trained factors, nested dicts; their names are joined with "/" in the file. They
        go into a folder only.

    Raises:
      InputError: `prompt` is not a two-dimensional array, or `path` cannot hold what is given.
    """
    path = Path(path)
    prompt = np.asarray(prompt, np.float32)
    if prompt.ndim != 2:
        raise InputError(f"A prompt is an array [length, width], not one of shape {prompt.shape}.")
    if path.suffix == ".npy":
        if params is not None:
            raise InputError(f"{path} holds one array; give a folder to save the factors as well.")
        _write_npy(path, prompt)
        return
    if path.suffix == ".npz":
        raise InputError(f"{path} would hold factors; name a .npy file or a folder for a prompt.")
    if params is not None:
        save_factors(path / FACTORS, params)
    # Last, so that a folder with a prompt in it is a whole one.
    _write_npy(path / PROMPT, prompt)


def save_factors(path: str | os.PathLike, params: Mapping[str, Any]) -> None:
    """Writes a prompt's own parameters to a `.npz` file, names joined with "/"."""
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_prompt(
    path: str | os.PathLike,
    embed_dim: int | None = None,
    length: int | None = None,
    flag: str = "--prompt",
) -> Float[np.ndarray, "length embed"]:
    """Reads a prompt as it is put in front of the embedded input.

    Args:
      path: a `.npy` file; a `.npz` file with the factors `A` and `B` (their product is the prompt)
        or with a single array; or a folder with `prompt.npy`, such as a run's
        `numpy_checkpoints/checkpoint_<step>`.
      embed_dim: the model's width; another one is an error.
      length: the number of positions wanted; another one is an error.
      flag: the flag or binding that gave `path`, for the messages.

    Returns:
      The prompt, float32.

    Raises:
      InputError: no such file, not a prompt, or a prompt of another rank, width or length.
    """
    from dpt_jax.prompts import prompt_array

    path = Path(path).expanduser()
    if path.is_dir():
        path = _prompt_of_folder(path, flag)
    source = _fold(path, flag) if path.suffix == ".npz" else path
    try:
        prompt = prompt_array(source)
    except ValueError as error:
        message = str(error).replace("The given array", str(path))
        raise InputError(f"{message} Change {flag}.") from error
    if embed_dim is not None and prompt.shape[1] != embed_dim:
        raise InputError(
            f"{path} holds a prompt of shape {prompt.shape}, but the model's width (EMBED_DIM) is "
            f"{embed_dim}, so that (length, {embed_dim}) is wanted. Change {flag}, or the model "
            "gin file."
        )
    if length is not None and prompt.shape[0] != length:
        raise InputError(
            f"{path} holds a prompt of shape {prompt.shape}, but PROMPT_LENGTH is {length}. "
            f"Change {flag}, or set --gin.PROMPT_LENGTH={prompt.shape[0]}."
        )
    return prompt


def load_factors(path: str | os.PathLike, flag: str = "--prompt") -> dict[str, Any]:
    """Reads what `save_factors` wrote: the parameters as nested dicts.

    Args:
      path: a `.npz` file, or a folder with `prompt_params.npz`.
      flag: the flag or binding that gave `path`, for the messages.

    Raises:
      InputError: no such file, or not a `.npz` file of arrays.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / FACTORS
    if not path.exists():
        raise InputError(f"There is no file {path}. Change {flag}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return unflatten({name: archive[name] for name in archive.files})
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as a .npz file of arrays: {error}. It may be half copied; "
            f"change {flag}."
        ) from error


def numpy_checkpoints(model_dir: str | os.PathLike) -> dict[int, Path]:
    """A run's saved prompts: the folder of each step that has a whole prompt, steps ascending."""
    found = {}
    for folder in (Path(model_dir) / CHECKPOINTS).glob("checkpoint_*"):
        match = re.fullmatch(r"checkpoint_(\d+)", folder.name)
        if match and (folder / PROMPT).exists():
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


def _prompt_of_folder(folder: Path, flag: str) -> Path:
    if (folder / PROMPT).exists():
        return folder / PROMPT
    steps = numpy_checkpoints(folder) or numpy_checkpoints(folder.parent)
    if steps:
        raise InputError(
            f"{folder} holds the prompts of several steps; name one with {flag}: "
            f"{', '.join(str(path) for path in steps.values())}."
        )
    raise InputError(f"{folder} has no {PROMPT}. Change {flag}.")


def _fold(path: Path, flag: str) -> np.ndarray:
    factors = flatten(load_factors(path, flag))
    if set(factors) == {"A", "B"}:
        a, b = factors["A"], factors["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise InputError(
                f"{path} holds A {a.shape} and B {b.shape}, which have no product. Change {flag}."
            )
        return a.astype(np.float32) @ b.astype(np.float32)
    if len(factors) == 1:
        return next(iter(factors.values()))
    raise InputError(
        f"{path} holds the factors {', '.join(factors)}, which only their own method can fold. "
        f"Change {flag} to the {PROMPT} that was written beside them."
    )


def _write_npy(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
