"""How much of its attention a T5 gives to a prefix."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from dpt_jax.models import Transformer
from dpt_jax.models.attention import attend
from dpt_jax.models.layers import KeysValues, MultiHeadAttention
from dpt_jax.models.prefixed import prepend
from dpt_jax.training.state import Params
from dpt_jax.training.step import Batch

# What the attention of each stack is called in the network's parameters.
_STACKS = {
    "attention": "encoder",
    "self_attention": "decoder",
    "encoder_decoder_attention": "cross",
}


@functools.partial(jax.jit, static_argnums=0)
def attention_mass(
    model: Transformer, params: Params, batch: Batch
) -> dict[str, Float[Array, "layers heads"]]:
    """The share of the attention weights that lies on the prefix, averaged over the queries.

    The weights are the network's own: its attention is run with values that are 1 for the prefix
    and 0 for all other keys, so that what it gives is the mass. Queries of padding do not count.

    Args:
      model: the network, with a prefix.
      params: all of its parameters.
      batch: `encoder_input_tokens`, `decoder_input_tokens` and `decoder_target_tokens`.

    Returns:
      The mass for each stack that the prefix acts on, 0 to 1, for each layer that has the prefix.
    """
    # What is seen inside a rematerialized layer may not leave it.
    model = model.clone(config=dataclasses.replace(model.config, remat_policy="none"))
    prefix = model.prefix
    assert prefix is not None
    found: dict[str, list[Array]] = {}

    def look(next_function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        module, name = context.module, context.method_name
        if isinstance(module, MultiHeadAttention) and name in ("__call__", "attend_unprojected"):
            *_, layer, attention = module.path
            stack = _STACKS[attention]
            if stack in prefix.stacks and (prefix.layers == "all" or layer == "layers_0"):
                mass = _mass_of(module, name, prefix.length, *args, **kwargs)
                found.setdefault(stack, []).append(mass)
        return next_function(*args, **kwargs)

    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    variables = {"params": params}
    with nn.intercept_methods(look):
        model.apply(variables, inputs, batch["decoder_input_tokens"], targets, enable_dropout=False)
    source: Any = model.apply(variables, inputs, method="source_mask")
    means = {}
    for stack, layers in found.items():
        counted = (source if stack == "encoder" else targets > 0).astype(jnp.float32)
        # [layers, batch, heads, query]
        means[stack] = jnp.einsum("lbhq,bq->lh", jnp.stack(layers), counted) / jnp.sum(counted)
    return means


def _mass_of(
    module: MultiHeadAttention,
    method: str,
    length: int,
    x: Array,
    *args: Any,
    causal: bool = False,
    query_mask: Array | None = None,
    prefix: KeysValues | None = None,
) -> Float[Array, "batch heads query"]:
    """The sum of the attention weights over a prefix of that length, in a call of an attention."""
    if method == "__call__":
        keys, _, key_mask, bias, _ = args
    else:
        memory, key_mask, _ = args
        (keys, _), bias = prepend(prefix, module.project_memory(memory)), None
    queries = module._split_heads(module.query(x)).astype(jnp.float32)
    on_prefix = (jnp.arange(keys.shape[2]) < length).astype(jnp.float32)
    values = jnp.broadcast_to(on_prefix[:, None], (*keys.shape[:3], 1))
    return attend(queries, keys.astype(jnp.float32), values, bias, key_mask, causal, query_mask)[
        ..., 0
    ]
