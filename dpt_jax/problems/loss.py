"""The training loss of an encoder-decoder."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpt_jax.training.state import merge_params
from dpt_jax.training.step import LossFn


def token_loss(
    logits: Float[Array, "batch target vocab"],
    targets: Int[Array, "batch target"],
    z_loss: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy summed over the real target tokens, and their number.

    Args:
      logits: unnormalized log-probabilities, float32.
      targets: target tokens, 0 is padding and does not count.
      z_loss: weight of `log(Z)^2`, which keeps the softmax normalizer near 1 (T5X's default for
        pretraining is 1e-4; prompt tuning uses none).
    """
    weights = (targets > 0).astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = log_z - target_logits
    if z_loss:
        loss = loss + z_loss * jnp.square(log_z)
    return jnp.sum(loss * weights), jnp.sum(weights)


def make_loss_fn(model: Any, z_loss: float = 0.0) -> LossFn:
    """The training loss of an encoder-decoder `model` (see `dpt_jax.models.Transformer`)."""
    enable_dropout = model.config.dropout_rate > 0

    def loss_fn(trainable, frozen, batch, dropout_key):
        logits = model.apply(
            {"params": merge_params(trainable, frozen)},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            enable_dropout=enable_dropout,
            rngs={"dropout": dropout_key} if enable_dropout else None,
        )
        return token_loss(logits, batch["decoder_target_tokens"], z_loss)

    return loss_fn
