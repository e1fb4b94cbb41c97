"""What a T5's attention lies on: its own weights, read in a forward pass."""

import dataclasses
import functools
from collections.abc import Callable
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
# (keys, how many of them are a prefix's) -> what each key counts for, `[key, column]`; None where
# the layer is of no interest.
Columns = Callable[[int, int], Float[Array, "key column"] | None]


@functools.partial(jax.jit, static_argnums=0)
def attention_weights(
    model: Transformer, params: Params, batch: Batch
) -> dict[str, Float[Array, "layers batch heads query column"]]:
    """The attention weights of every query, which sum to 1.

    Args:
      model: the network, with a prompt, a prefix, both or neither.
      params: all of its parameters.
      batch: `encoder_input_tokens`, `decoder_input_tokens` and `decoder_target_tokens`.

    Returns:
      Those of "encoder", "decoder" and "cross", float32. The first column is the prefix, all of its
      keys together, and 0 where the layer has none. The others are the remaining keys in their
      order; in encoder and cross-attention these begin with the prompt.
    """

    def columns(keys: int, in_front: int) -> Array:
        rest = keys - in_front
        return jnp.concatenate(
            [jnp.eye(1 + rest)[:1].repeat(in_front, 0), jnp.eye(rest, 1 + rest, 1)]
        )

    return watch(model, params, batch, columns)


def watch(
    model: Transformer, params: Params, batch: Batch, columns: Columns
) -> dict[str, Float[Array, "layers batch heads query column"]]:
    """The attention weights of every query, summed into columns.

    The weights are the network's own: its attention is run with `columns` in the place of values.

    Args:
      model: the network.
      params: all of its parameters.
      batch: `encoder_input_tokens`, `decoder_input_tokens` and `decoder_target_tokens`.
      columns: what each key counts for.

    Returns:
      An array for each stack that has a layer of interest, of these layers, float32.
    """
    # What is seen inside a rematerialized layer may not leave it.
    model = model.clone(config=dataclasses.replace(model.config, remat_policy="none"))
    prefix: Any = model.prefix
    found: dict[str, list[Array]] = {}

    def look(next_function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        module, name = context.module, context.method_name
        if isinstance(module, MultiHeadAttention) and name in ("__call__", "attend_unprojected"):
            *_, layer, attention = module.path
            stack, in_front = _STACKS[attention], 0
            if prefix is not None and stack in prefix.stacks:
                in_front = prefix.length if prefix.layers == "all" or layer == "layers_0" else 0
            own = lambda keys: columns(keys, in_front)  # noqa: E731
            summed = _summed(module, name, own, *args, **kwargs)
            if summed is not None:
                found.setdefault(stack, []).append(summed)
        return next_function(*args, **kwargs)

    tokens = (
        batch[f"{name}_tokens"] for name in ("encoder_input", "decoder_input", "decoder_target")
    )
    with nn.intercept_methods(look):
        model.apply({"params": params}, *tokens, enable_dropout=False)
    return {stack: jnp.stack(layers) for stack, layers in found.items()}


def _summed(
    module: MultiHeadAttention,
    method: str,
    columns: Callable[[int], Array | None],
    x: Array,
    *args: Any,
    causal: bool = False,
    query_mask: Array | None = None,
    prefix: KeysValues | None = None,
) -> Float[Array, "batch heads query column"] | None:
    """The weights of a call of an attention, summed into columns."""
    if method == "__call__":
        keys, _, key_mask, bias, _ = args
    else:
        memory, key_mask, _ = args
        (keys, _), bias = prepend(prefix, module.project_memory(memory)), None
    values = columns(keys.shape[2])
    if values is None:
        return None
    queries = module._split_heads(module.query(x)).astype(jnp.float32)
    values = jnp.broadcast_to(values, (*keys.shape[:2], *values.shape))
    return attend(queries, keys.astype(jnp.float32), values, bias, key_mask, causal, query_mask)
