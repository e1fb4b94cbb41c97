"""What a vision transformer's prompts and CLS attend to: a forward pass that keeps the weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dpt_jax.models.vit import VisionTransformer
from dpt_jax.models.vit.layers import ATTENTION
from dpt_jax.theory import attention_maps
from dpt_jax.training.state import Params

_NORM = "pre_attention_layer_norm"


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
        _, kept = model.apply({"params": params}, batch, method="encode", mutable=[ATTENTION])
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


def query_alignment(
    model: VisionTransformer,
    params: Params,
    images: Any,
    relevant: Float[np.ndarray, "images patches"],
) -> Float[np.ndarray, "heads prompts"]:
    """Cosines of what prompts ask for with what tells relevant patches from others.

    In the first layer a prompt's query is the same for every image: a patch's score for it is
    `x^T q`, x being normalized. Compared with q is the mean relevant patch less the mean other one.

    Args:
      model: the network, with a prompt.
      params: all of its parameters.
      images: normalized pixels, `[images, height, width, channels]`.
      relevant: the relevant share of each patch.
    """
    assert model.prompt is not None
    count, patches = int(model.prompt.length), model.config.num_patches

    @jax.jit
    def first_layer(params: Params, images: Any) -> Any:
        _, kept = model.apply(
            {"params": params},
            images,
            method="encode",
            capture_intermediates=lambda module, _: module.name == _NORM,
            mutable=["intermediates"],
        )
        return kept["intermediates"]["encoder"]["layers_0"][_NORM]["__call__"]

    # Hidden prompts are normalized apart, and after the tokens.
    normed = first_layer(params, images)
    prompts = normed[-1][0] if model.hidden else normed[0][0, 1 : 1 + count]
    x = np.asarray(normed[0], np.float32)[:, -patches:]
    means = [
        np.average(x, axis=(0, 1), weights=np.broadcast_to(share[..., None], x.shape))
        for share in (relevant, 1 - relevant)
    ]
    direction = means[0] - means[1]
    layer = params["encoder"]["layers_0"]["attention"]
    # The query's bias is one more row of its kernel.
    query = jnp.vstack([layer["query"]["kernel"], layer["query"]["bias"]])
    prompts = jnp.pad(prompts.astype(jnp.float32), ((0, 0), (0, 1)), constant_values=1)
    asked = attention_maps.query_directions(
        prompts, query, layer["key"]["kernel"], model.config.num_heads
    )
    return np.asarray(attention_maps.cosines(asked, jnp.asarray(direction)))


def _on_patches(weights: jax.Array, patches: int) -> jax.Array:
    """The mean over queries of `[batch, heads, query, key]`, patches being the last keys."""
    on = weights[..., -patches:].mean(axis=2)
    return on / on.sum(axis=-1, keepdims=True)


def _stacked(layers: Sequence[jax.Array]) -> jax.Array | tuple[()]:
    return jax.numpy.stack(layers, axis=1) if layers else ()
