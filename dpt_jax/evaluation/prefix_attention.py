"""How much of its attention a T5 gives to a prefix."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.evaluation.t5_attention import watch
from dpt_jax.models import Transformer
from dpt_jax.training.state import Params
from dpt_jax.training.step import Batch


@functools.partial(jax.jit, static_argnums=0)
def attention_mass(
    model: Transformer, params: Params, batch: Batch
) -> dict[str, Float[Array, "layers heads"]]:
    """The share of the attention weights that lies on the prefix, averaged over the queries.

    Queries of padding do not count.

    Args:
      model: the network, with a prefix.
      params: all of its parameters.
      batch: `encoder_input_tokens`, `decoder_input_tokens` and `decoder_target_tokens`.

    Returns:
      The mass for each stack that the prefix acts on, 0 to 1, for each layer that has the prefix.
    """

    def on_prefix(keys: int, in_front: int) -> Array | None:
        return (jnp.arange(keys) < in_front).astype(jnp.float32)[:, None] if in_front else None

    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    source: Any = model.apply({"params": params}, inputs, method="source_mask")
    means = {}
    for stack, layers in watch(model, params, batch, on_prefix).items():
        counted = (source if stack == "encoder" else targets > 0).astype(jnp.float32)
        # [layers, batch, heads, query]
        means[stack] = jnp.einsum("lbhq,bq->lh", layers[..., 0], counted) / jnp.sum(counted)
    return means
