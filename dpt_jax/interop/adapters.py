"""What a frozen T5 is given, a prompt, a prefix or both, in the files of a run or of others."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float32

from dpt_jax.files import fetched
from dpt_jax.interop import peft_prefix, t5x_checkpoint
from dpt_jax.interop.prefixes import FoldedPrefix, load_prefix, save_prefix
from dpt_jax.interop.prompts import load_prompt, save_prompt
from dpt_jax.interop.stored_prompt import read_npz
from dpt_jax.paths import as_path
from dpt_jax.run_files import (
    FACTORS,
    NUMPY_CHECKPOINTS,
    PREFIX,
    PREFIX_FACTORS,
    PROMPT,
    kept_checkpoint,
)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What a frozen T5 is given: a soft prompt, a prefix, both, or nothing.

    Attributes:
      prompt: a folded prompt, float32 `[P, D]`.
      prefix: a folded prefix.
    """

    prompt: Float32[np.ndarray, "length embed"] | None = None
    prefix: FoldedPrefix | None = None


def save_adapter(
    folder: str | os.PathLike, adapter: Adapter, params: Mapping[str, Any] | None = None
) -> None:
    """Writes what is there of an adapter into a folder.

    Args:
      folder: where to.
      adapter: the folded prompt and prefix.
      params: the parameters that they were folded from, under `prompt` and `prefix`.
    """
    params = params or {}
    if adapter.prefix is not None:
        save_prefix(folder, adapter.prefix, params.get("prefix"))
    if adapter.prompt is not None:
        save_prompt(folder, adapter.prompt, params.get("prompt"))


def load_own(folder: str | os.PathLike, flag: str = "--prompt") -> dict[str, Any]:
    """The `params` that `save_adapter` wrote, as far as they are there.

    Args:
      folder: what `save_adapter` was given.
      flag: the flag or binding that gave `folder`, for messages.
    """
    files = {"prompt": as_path(folder) / FACTORS, "prefix": as_path(folder) / PREFIX_FACTORS}
    return {
        name: unflatten_dict(read_npz(path, flag), sep="/")
        for name, path in files.items()
        if path.exists()
    }


def _beside_t5x(folder: Any) -> Any:
    """The plain arrays that T5X has saved beside a checkpoint of its own, if `folder` is one.

    A prefix is in the checkpoint as its method's own parameters, which say neither how they fold
    nor where its columns stand.
    """
    beside = folder.parent / NUMPY_CHECKPOINTS / folder.name
    is_t5x = (folder / t5x_checkpoint.INDEX).is_file() and (beside / PREFIX).exists()
    return beside if is_t5x else None


def load_adapter(
    path: str | os.PathLike,
    embed_dim: int | None = None,
    flag: str = "--prompt",
    decoder_layers: int | None = None,
) -> Adapter:
    """Reads a prompt in any form, a prefix, or the folder of both.

    Args:
      path: what `load_prompt` reads; a `prefix.npz`, a folder with one, the run of one, or a
        checkpoint of `t5x.train` in its run's folder; or a PEFT adapter of type PREFIX_TUNING.
      embed_dim: the width that a prompt must have.
      decoder_layers: layers of the T5's decoder, which PEFT's adapters do not know; None reads as
        many as the adapter has.
      flag: the flag or binding that gave `path`, for messages.

    Raises:
      InputError: as `load_prompt` and `load_prefix` do.
    """
    found = as_path(path)
    if found.name == PREFIX:
        return Adapter(prefix=load_prefix(found, flag))
    if found.is_dir():
        if peft_prefix.is_prefix(found):
            with fetched(found) as copy:
                return Adapter(prefix=peft_prefix.read_prefix(copy, decoder_layers, flag))
        folder = kept_checkpoint(found) or _beside_t5x(found) or found
        if (folder / PREFIX).exists():
            prompt = None
            if (folder / PROMPT).exists():
                prompt = load_prompt(folder, embed_dim, flag=flag)
            return Adapter(prompt, load_prefix(folder / PREFIX, flag))
    return Adapter(load_prompt(path, embed_dim, flag=flag))
