"""What a run on images exports: prompts, a prefix and the head, as NumPy's files."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpt_jax.files import atomic_write
from dpt_jax.interop.prefixes import FoldedPrefix, save_prefix
from dpt_jax.interop.prompts import save_factors
from dpt_jax.paths import as_path
from dpt_jax.run_files import FACTORS, HEAD, PROMPT


def save_vision(
    folder: str | os.PathLike,
    prompt: np.ndarray | None,
    prefix: FoldedPrefix | None,
    params: Mapping[str, Any],
) -> None:
    """Writes what is there into a folder.

    Args:
      folder: where to.
      prompt: the folded prompt, `[P, D]`, or `[layers, P, D]` with one for each layer.
      prefix: the folded prefix.
      params: the trained parameters under `prompt` and `prefix`, and those of the heads under
        `head` and `prompt_head`.
    """
    target = as_path(folder)
    heads = {name: params[name] for name in ("head", "prompt_head") if name in params}
    save_factors(target / HEAD, heads)
    if prompt is not None:
        save_factors(target / FACTORS, params["prompt"])
        with atomic_write(target / PROMPT) as temporary, open(temporary, "wb") as file:
            np.save(file, prompt)
    if prefix is not None:
        save_prefix(target, prefix, params["prefix"])
