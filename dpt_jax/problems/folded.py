"""The network that a trained prompt or prefix is used in, whatever its method."""

from typing import Any

import numpy as np

from dpt_jax.models import T5Config, Transformer
from dpt_jax.models.network import fold_prefix
from dpt_jax.models.vit import LayerPrompts, VisionTransformer
from dpt_jax.prefixes import Prefix, as_free
from dpt_jax.prompts import SoftPrompt, VanillaPrompt
from dpt_jax.tensors import Params
from dpt_jax.training.config import RunConfig
from dpt_jax.training.state import merge_params


def folded_model(
    config: T5Config, prompt_length: int | None, prefix: Prefix | None = None
) -> Transformer:
    """The network with a folded prompt of that length, or without one, and a folded prefix.

    It serves every method: `{"prompt": {"prompt": array}}` are its prompt's parameters.
    """
    folded = None if prompt_length is None else VanillaPrompt(prompt_length, config.emb_dim)
    return Transformer(config, folded, prefix)


def folded_model_of(config: RunConfig) -> Transformer:
    """The network with what a run's prompt and prefix fold into, where there are any."""
    prompt, prefix = config.prompt, config.prefix
    return folded_model(
        config.model,
        None if prompt is None else prompt.length,
        None if prefix is None else as_free(prefix),
    )


def folded_vit(model: VisionTransformer) -> VisionTransformer:
    """The ViT with what its prompt and prefix fold into, where there are any."""
    prompt: Any = model.prompt
    if isinstance(prompt, LayerPrompts):
        prompt = LayerPrompts(_plain(prompt.prompt), prompt.num_layers)
    elif prompt is not None:
        prompt = _plain(prompt)
    prefix = None if model.prefix is None else as_free(model.prefix)
    return model.clone(prompt=prompt, prefix=prefix)


def _plain(prompt: SoftPrompt) -> VanillaPrompt:
    return VanillaPrompt(prompt.length, prompt.embed_dim)


def fold(model: Transformer | VisionTransformer, trained: Params, frozen: Params) -> Params:
    """Trained parameters as those of `folded_model` or `folded_vit`, float32.

    Args:
      model: the network with the methods that are trained.
      trained: the trained parameters; what belongs to neither prompt nor prefix stays as it is.
      frozen: the others, which some prefixes go through.
    """
    folded = dict(trained)
    if model.prompt is not None:
        prompt: Any = model.prompt.clone(parent=None).apply({"params": trained["prompt"]})
        folded["prompt"] = {"prompt": prompt}
        if isinstance(model.prompt, LayerPrompts):
            folded["prompt"] = {f"layers_{i}": {"prompt": one} for i, one in enumerate(prompt)}
    if model.prefix is not None:
        folded["prefix"] = fold_prefix(model, merge_params(trained, frozen))
    return folded


def plain_prompt(folded: Params) -> np.ndarray:
    """What `fold` made of a prompt: `[P, D]`, or one for each layer, `[layers, P, D]`."""
    if "prompt" in folded:
        return np.asarray(folded["prompt"])
    return np.stack([folded[f"layers_{i}"]["prompt"] for i in range(len(folded))])
