"""A prompt that exists already: as what a T5 is given, and as a method that goes on from it."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpt_jax.errors import InputError
from dpt_jax.interop import load_factors
from dpt_jax.interop.adapters import Adapter, load_adapter
from dpt_jax.interop.prefix_file import prefix_from
from dpt_jax.models import T5Config
from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import (
    DecomposedPrompt,
    SoftPrompt,
    VanillaPrompt,
    from_factors,
    from_prompt,
    prompt_array,
)

# A file or folder in any known form, an array `[P, D]`, or an adapter.
PromptLike = str | os.PathLike | np.ndarray | Adapter


def load(prompt: PromptLike, model: T5Config, name: str = "prompt=") -> Adapter:
    """A prompt or prefix in any form, as the model is given it.

    Args:
      prompt: what `load_adapter` reads, an array that `prompt_array` takes, or an adapter.
      model: the T5 that it has to fit.
      name: how messages name it, and what to change.

    Raises:
      InputError: when it is no prompt, or another model's.
    """
    if isinstance(prompt, str | os.PathLike):
        found = load_adapter(prompt, model.emb_dim, name, model.num_decoder_layers)
    elif isinstance(prompt, Adapter):
        found = prompt
    else:
        try:
            found = Adapter(prompt_array(prompt, name.rstrip("=")))
        except (TypeError, ValueError) as e:
            raise InputError(f"{e} Change {name}") from e
    if found.prompt is not None and found.prompt.shape[1] != model.emb_dim:
        raise InputError(
            f"{name} holds a prompt of shape {found.prompt.shape}, but the model is "
            f"{model.emb_dim} wide. Give a prompt of this model."
        )
    if found.prefix is not None:
        found.prefix.module(model, f"The prefix of {name}")
    return found


def factors_of(prompt: PromptLike) -> Mapping[str, Any]:
    """The parameters that a prompt in a file was folded from; none where they are not kept."""
    if not isinstance(prompt, str | os.PathLike):
        return {}
    try:
        return load_factors(prompt)
    except InputError:
        return {}  # Many forms hold the folded prompt alone.


def continued(
    adapter: Adapter, factors: Mapping[str, Any]
) -> tuple[SoftPrompt | None, Prefix | None]:
    """Methods whose first values are those of an existing prompt and prefix.

    Args:
      adapter: the prompt, the prefix or both.
      factors: the prompt's `A` and `B`, which then are trained on; with other factors, or without,
        every number of the prompt is a parameter of its own. So is every number of a prefix.

    Returns:
      A method for each of the two that is there.
    """
    prefix = None if adapter.prefix is None else prefix_from(adapter.prefix, "The prefix")
    if adapter.prompt is None:
        return None, prefix
    length, width = adapter.prompt.shape
    if set(factors) == {"A", "B"}:
        a, b = (from_factors(factors, name) for name in ("A", "B"))
        return DecomposedPrompt(length, width, factors["A"].shape[1], a, b), prefix
    return VanillaPrompt(length, width, from_prompt(adapter.prompt)), prefix
