"""Prompts in files: the folded prompt as `.npy`, the trained factors as `.npz`.

A run keeps both for every step it saves, in `numpy_checkpoints/checkpoint_<step>/` as T5X's numpy
checkpoints are laid out: `prompt.npy` and `prompt_params.npz`. Prompts of other programs are read
through `stored_prompt`.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float

from dpt_jax.errors import InputError
from dpt_jax.files import atomic_write
from dpt_jax.interop import stored_prompt
from dpt_jax.paths import as_path, in_bucket
from dpt_jax.run_files import FACTORS, PROMPT


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
    target = as_path(path)
    prompt = np.asarray(prompt, np.float32)
    if prompt.ndim != 2:
        raise InputError(f"A prompt is an array [length, width], not one of shape {prompt.shape}.")
    if target.suffix == ".npy":
        if params is not None:
            raise InputError(
                f"{target} holds one array; give a folder to save the factors as well."
            )
        _write_npy(target, prompt)
        return
    if target.suffix == ".npz":
        raise InputError(f"{target} would hold factors; name a .npy file or a folder for a prompt.")
    if params is not None:
        save_factors(target / FACTORS, params)
    # Last, so that a folder with a prompt in it is a whole one.
    _write_npy(target / PROMPT, prompt)


def save_factors(path: str | os.PathLike, params: Mapping[str, Any]) -> None:
    """Writes a prompt's own parameters to a `.npz` file, names joined with "/".

    Args:
      path: the file, which appears whole or not at all.
      params: the parameters, nested by name.
    """
    arrays: dict[str, Any] = {
        name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()
    }
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
      path: any of the files and folders that `stored_prompt` lists, told apart by what is in them:
        `.npy`, `.npz`, safetensors, numpy checkpoints, a run, a PEFT adapter, the released `.pt`.
      embed_dim: the model's width; another one is an error.
      length: the number of positions wanted; another one is an error.
      flag: the flag or binding that gave `path`, for the messages.

    Returns:
      The prompt, float32.

    Raises:
      InputError: no such file, not a prompt, or one with other axes, width or length.
    """
    stored = stored_prompt.open_prompt(path, flag)
    path, prompt = stored.path, stored.prompt
    if prompt is None:
        raise InputError(
            f"{path} holds the factors {', '.join(stored.arrays)}, which only their own method can "
            f"fold. Change {flag} to the {PROMPT} that was written beside them."
        )
    if embed_dim is not None and prompt.shape[1] != embed_dim:
        raise InputError(
            f"{path} holds a prompt of shape {prompt.shape}, but the model's width (EMBED_DIM) is "
            f"{embed_dim}, so that (length, {embed_dim}) is wanted. Change {flag}, or the model."
        )
    if length is not None and prompt.shape[0] != length:
        raise InputError(
            f"{path} holds a prompt of shape {prompt.shape}, but PROMPT_LENGTH is {length}. "
            f"Change {flag}, or set --gin.PROMPT_LENGTH={prompt.shape[0]}."
        )
    return prompt


def load_factors(path: str | os.PathLike, flag: str = "--prompt") -> dict[str, Any]:
    """Reads the parameters of a prompt's method, to continue from or to keep.

    Args:
      path: what `save_factors` wrote, a folder with `prompt_params.npz`, or any other of the files
        and folders that `stored_prompt` lists, where it has the factors and not the prompt alone.
      flag: the flag or binding that gave `path`, for the messages.

    Returns:
      The parameters as nested dicts; `A` and `B` of a decomposed prompt.

    Raises:
      InputError: no such file, or no factors in it.
    """
    folder = as_path(path)
    if not in_bucket(folder) and (folder / FACTORS).exists():
        return unflatten_dict(stored_prompt.read_npz(folder / FACTORS, flag), sep="/")
    stored = stored_prompt.open_prompt(folder, flag)
    if stored.factors is None:
        raise InputError(
            f"{stored.path} holds a folded prompt and no factors of it. Change {flag}, or start "
            "from the prompt itself (prompts/decomposed_from_prompt.gin)."
        )
    return unflatten_dict(stored.factors, sep="/")


@dataclasses.dataclass(frozen=True)
class _File:
    """What a gin file names for a prompt to start from, read when its values are asked for.

    Neither who counts parameters nor a run that goes on needs the file.

    Attributes:
      path: a file or folder.
      flag: the flag or binding that gave `path`, for the messages.
    """

    path: str
    flag: str = "PROMPT_FILE"

    @property
    def name(self) -> str:
        """How messages name it."""
        return str(self.path)


class PromptFile(_File):
    """A prompt in a file that `load_prompt` takes, as an array."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """`load_prompt`, for NumPy."""
        return np.asarray(load_prompt(self.path, flag=self.flag), dtype)


class FactorsFile(_File, Mapping):
    """The parameters of a prompt's method in a file that `load_factors` takes, by name."""

    def __getitem__(self, factor: str) -> Any:
        return load_factors(self.path, self.flag)[factor]

    def __iter__(self) -> Iterator[str]:
        return iter(load_factors(self.path, self.flag))

    def __len__(self) -> int:
        return len(load_factors(self.path, self.flag))


def _write_npy(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
