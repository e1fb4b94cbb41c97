"""Where a prefix enters attention: as keys and values in front of a layer's own.

Attention itself is not changed. Its keys and values grow by N in front, and so do the keys' mask,
which shows the prefix to every query, and the position bias. The queries stay as many as they are.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpt_jax.models.layers import KeysValues, LayerNorm
from dpt_jax.prefixes import Stack, stacks_of

# Gives a layer's position bias for its own keys and so many further ones in front of them.
PositionBias = Callable[[int], Float[Array, "1 heads query in_front+key"]]


@dataclasses.dataclass(frozen=True)
class StackPrefix:
    """The prefix of a stack, as its layers take it.

    Attributes:
      layers: keys and values of each layer that has a prefix, from the first; each
        `[#batch, heads, N, head_dim]`.
      in_front: whether it stands before the first token for T5's relative position bias.
    """

    layers: tuple[KeysValues, ...]
    in_front: bool

    @classmethod
    def create(cls, keys_values: tuple[Array, Array], position_bias: str) -> "StackPrefix":
        """Takes what a prefix computes.

        Args:
          keys_values: keys and values, each `[layers, N, heads, kv]`, or with one for each row of a
            batch `[layers, batch, N, heads, kv]`.
          position_bias: `Prefix.position_bias`.
        """
        keys, values = (x if x.ndim == 5 else x[:, None] for x in keys_values)
        layers = zip(keys.swapaxes(2, 3), values.swapaxes(2, 3), strict=True)
        return cls(tuple(layers), position_bias == "front")

    @property
    def length(self) -> int:
        """Prefix tokens, N."""
        return self.layers[0][0].shape[2]

    def of_layers(self, num_layers: int) -> list[KeysValues | None]:
        """Keys and values of each of a stack's layers, None for those without."""
        return [*self.layers, *[None] * (num_layers - len(self.layers))]


# Where a stack's key and value kernels are in T5X's parameter tree, ours as well.
_ATTENTION = {
    "encoder": ("encoder", "attention"),
    "decoder": ("decoder", "self_attention"),
    "cross": ("decoder", "encoder_decoder_attention"),
}
# And the norm that the layer's real keys have come through, which for cross-attention is the
# encoder's last.
_NORM = {"encoder": "pre_attention_layer_norm", "decoder": "pre_self_attention_layer_norm"}


def stack_of(name: str, config: Any, params: Mapping[str, Any] | None) -> Stack:
    """The stack of a T5, ours or T5X's, that projects rows by the T5's own parameters.

    Args:
      name: one of `dpt_jax.prefixes.STACKS`.
      config: the T5's `T5Config`.
      params: the T5's parameters; None projects to zeros, where shapes are all that is asked for.
    """
    project = None if params is None else functools.partial(_project_rows, config, params)
    return stacks_of(config, project)[name]


def _project_rows(
    config: Any,
    params: Mapping[str, Any],
    name: str,
    rows: Float[Array, "layers N embed"],
    normalize: bool,
) -> tuple[Array, Array]:
    """See `dpt_jax.prefixes.Stack.project`."""
    part, attention = _ATTENTION[name]
    projected: dict[str, list[Array]] = {"key": [], "value": []}
    for i, row in enumerate(rows):
        layer = params[part][f"layers_{i}"]
        if normalize:
            norm = layer[_NORM[name]] if name in _NORM else params["encoder"]["encoder_norm"]
            row = LayerNorm(config.dtype, parent=None).apply({"params": norm}, row)
        for kind, found in projected.items():
            kernel = layer[attention][kind]["kernel"].astype(config.dtype)
            found.append(row.astype(config.dtype) @ kernel)
    heads = (*rows.shape[:2], config.num_heads, config.head_dim)
    return jnp.stack(projected["key"]).reshape(heads), jnp.stack(projected["value"]).reshape(heads)


def prepend(prefix: KeysValues | None, own: KeysValues) -> KeysValues:
    """Puts a prefix in front of keys and values, each `[rows, heads, length, head_dim]`.

    The rows of one input adjoin (beams, answer candidates), and have the prefix of that input.
    """
    if prefix is None:
        return own

    def joined(front: Array, back: Array) -> Array:
        front = jnp.repeat(front.astype(back.dtype), back.shape[0] // front.shape[0], axis=0)
        return jnp.concatenate([front, back], axis=2)

    return joined(prefix[0], own[0]), joined(prefix[1], own[1])


class AttentionInputs(NamedTuple):
    """What a layer attends with, besides its own keys and values."""

    key_mask: Bool[Array, "#batch N+key"]
    bias: Float[Array, "1 heads query N+key"] | None
    prefix: KeysValues | None


def attention_inputs(
    key_mask: Bool[Array, "#batch key"],
    biases: Sequence[PositionBias | None],
    prefix: StackPrefix | None,
) -> list[AttentionInputs]:
    """Mask, position bias and prefix for each layer of a stack.

    Args:
      key_mask: which keys are seen, the prefix left out.
      biases: each layer's position bias; None where attention has none.
      prefix: the stack's prefix, None without one.
    """
    if prefix is None:
        return [AttentionInputs(key_mask, bias and bias(0), None) for bias in biases]
    wider = ((0, 0), (0, 0), (0, 0), (prefix.length, 0))
    wider_mask = jnp.pad(key_mask, wider[-2:], constant_values=True)

    # Once for all layers that have it in common.
    @functools.cache
    def wider_bias(bias: PositionBias) -> Array:
        return bias(prefix.length) if prefix.in_front else jnp.pad(bias(0), wider)

    def inputs(bias: PositionBias | None, own: KeysValues | None) -> AttentionInputs:
        if own is None:
            return AttentionInputs(key_mask, bias and bias(0), None)
        return AttentionInputs(wider_mask, bias and wider_bias(bias), own)

    return [inputs(*layer) for layer in zip(biases, prefix.of_layers(len(biases)), strict=True)]
