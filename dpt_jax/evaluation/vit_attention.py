"""What a vision transformer's prompts and CLS attend to: a forward pass that keeps the weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from dpt_jax.models.vit import VisionTransformer
from dpt_jax.models.vit.layers import ATTENTION
from dpt_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class PatchAttention:
    """Attention to patches, of each image, layer and head; the weights on patches sum to 1.

    What is attended to besides patches (CLS, prompts, a prefix) is left out, and told apart.

    Attributes:
      prompts: the mean over prompts; None where no prompt asks, as with a prefix.
      cls: that of CLS.
    """

    prompts: Float[np.ndarray, "images layers heads patches"] | None
    cls: Float[np.ndarray, "images layers heads patches"]


def patch_attention(
    model: VisionTransformer, params: Params, images: Any, batch_size: int = 64
) -> PatchAttention:
    """Runs a network on images and keeps its attention to patches.

    Args:
      model: the network, with its prompt and prefix.
      params: all of its parameters.
      images: normalized pixels, `[images, height, width, channels]`.
      batch_size: images at once.
    """
    count = 0
    if model.prompt is not None:
        count = int(model.prompt.length)
    patches = model.config.num_patches

    @jax.jit
    def weights(params: Params, batch: Any) -> tuple[Any, Any]:
        _, kept = model.apply({"params": params}, batch, mutable=[ATTENTION])
        layers = kept[ATTENTION]["encoder"]
        of_prompts, of_cls = [], []
        for i in range(model.config.num_layers):
            own = layers[f"layers_{i}"]["attention"]
            tokens = own["tokens"][0]
            of_cls.append(_on_patches(tokens[:, :, :1], patches))
            if "hidden" in own:
                of_prompts.append(_on_patches(own["hidden"][0], patches))
            elif count:
                of_prompts.append(_on_patches(tokens[:, :, 1 : 1 + count], patches))
        return _stacked(of_prompts), _stacked(of_cls)

    found = [
        jax.device_get(weights(params, images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    prompts = np.concatenate([one for one, _ in found]) if count else None
    return PatchAttention(prompts, np.concatenate([one for _, one in found]))


def _on_patches(weights: jax.Array, patches: int) -> jax.Array:
    """The mean over queries of `[batch, heads, query, key]`, patches being the last keys."""
    on = weights[..., -patches:].mean(axis=2)
    return on / on.sum(axis=-1, keepdims=True)


def _stacked(layers: Sequence[jax.Array]) -> jax.Array | tuple[()]:
    return jax.numpy.stack(layers, axis=1) if layers else ()
