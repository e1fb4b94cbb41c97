"""The network of a run on images, how its parameters are drawn, and its loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpt_jax.models.vit import LayerPrompts, VisionTransformer, ViTConfig
from dpt_jax.models.vit.pixels import normalize
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.tensors import Params
from dpt_jax.training.state import merge_params
from dpt_jax.training.step import LossFn


def model_of(config: ImageRunConfig, model: ViTConfig) -> VisionTransformer:
    """The network of a run, its ViT being `model`."""
    prompt: Any = config.prompt
    if prompt is not None and config.prompt_placement != "shallow":
        prompt = LayerPrompts(prompt, config.model.num_layers, config.shared_a)
    return VisionTransformer(
        model,
        prompt,
        config.prompt_placement == "hidden",
        config.prefix,
        config.prompt_dropout,
    )


def make_loss_fn(model: VisionTransformer, config: ImageRunConfig) -> LossFn:
    """Cross-entropy summed over a batch's images, and their number."""
    dropout = config.prompt_dropout > 0

    def loss_fn(trainable, frozen, batch, dropout_key):
        images = normalize(batch["images"], config.image_mean, config.image_std)
        logits: Any = model.apply(
            {"params": merge_params(trainable, frozen)},
            images,
            dropout,
            rngs={"dropout": dropout_key} if dropout else None,
        )
        log_probabilities = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(log_probabilities, batch["labels"][:, None], axis=-1)[:, 0]
        return -jnp.sum(own * batch["weights"]), jnp.sum(batch["weights"])

    return loss_fn


def drawing(model: VisionTransformer, names: tuple[str, ...]) -> Callable[[jax.Array], Params]:
    """What draws the first parameters with a key, or those of `names` alone."""
    config = model.config
    blank = jnp.zeros((1, config.image_size, config.image_size, config.channels))

    def init(key: jax.Array) -> Params:
        params = dict(model.init(key, blank)["params"])
        # What is not returned is not computed either.
        return {k: v for k, v in params.items() if not names or k in names}

    return jax.jit(init)
