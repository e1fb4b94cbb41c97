"""A prefix whose keys and values come from one small network."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.prefixes.base import (
    KeysValues,
    Prefix,
    Stack,
    fan_in_uniform,
    linear,
    split_keys_values,
)
from dpt_jax.prompts import require_size
from dpt_jax.prompts.initializers import Initializer, gaussian, uniform


class DeepSharedPrefix(Prefix):
    """Key and value of a token are the halves of `W2 tanh(W1 p + b1) + b2`, p one row of width D.

    *Deep-share* of Le et al., "Revisiting Prefix-tuning", ICLR 2025. Either every layer has rows
    and a network of its own, as in the authors' vision code, which makes
    layers · (N·D + D·h + h + (h + 1) · 2·H·kv) parameters a stack. Or the layers of a stack share
    rows and hidden layer, as in Li and Liang, "Prefix-Tuning", ACL 2021, section 4.3:
    N·D + D·h + h + layers · (h + 1) · 2·H·kv. The network is only needed for training.

    Attributes:
        hidden_dim: h, the width of the hidden layer; 48 in the vision code, 512 in the text code.
        across_layers: share table and hidden layer among the layers of a stack.
        rows_init: draws `<stack>_rows`, `[layers, N, D]`, or `[N, D]` where the layers share it.
        kernel_init: draws the kernels `[..., in, out]`.

    Raises:
        ValueError: as `Prefix`.
    """

    hidden_dim: int = 48
    across_layers: bool = False
    rows_init: Initializer = uniform(0.0625)
    kernel_init: Initializer = fan_in_uniform

    def __post_init__(self):
        require_size(self, "hidden_dim", f"prefixes.{type(self).__name__}.hidden_dim")
        super().__post_init__()

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Runs the rows through the network; see `Prefix.keys_and_values`."""
        joined = network(self, stack, "", self.across_layers, 2 * stack.joined_dim)
        return split_keys_values(joined, stack)


def deep_scale(embed_dim: int, hidden_dim: int = 48, rows_scale: float = 0.0625) -> Initializer:
    """Draws from a normal distribution as wide as that of a fresh `DeepSharedPrefix`'s numbers.

    With it a `FreePrefix` is the control for what the deep prefix gains by starting small. The
    width is in closed form, tanh taken for the identity, which it is within a percent there.

    Args:
        embed_dim: D, the model's width.
        hidden_dim: h, as in `DeepSharedPrefix`.
        rows_scale: its rows start uniform in ± this.
    """
    # A uniform distribution in ±s has the variance s²/3; a kernel's and a bias's limit is
    # 1/sqrt(in), so that a layer gives a third of what comes in on average, and 1/(3 in) more.
    hidden = (rows_scale**2 / 3 + 1 / embed_dim) / 3
    return gaussian(math.sqrt((hidden + 1 / hidden_dim) / 3))


def network(
    prefix: Prefix, stack: Stack, name: str, across_layers: bool, features: int
) -> Float[Array, "layers N features"]:
    """Rows through Linear, tanh, Linear.

    Args:
        prefix: a prefix with `hidden_dim`, `rows_init` and `kernel_init`; it owns the parameters.
        stack: the stack they belong to.
        name: put in front of their names.
        across_layers: whether the layers share rows and hidden layer.
        features: width of a layer's output.
    """
    layers: tuple[int, ...] = () if across_layers else (stack.num_layers,)
    layer_axis = ("prefix_layers",)[: len(layers)]
    rows = prefix.declare(
        stack,
        f"{name}rows",
        prefix.rows_init,
        (*layers, prefix.length, stack.embed_dim),
        *(*layer_axis, "prefix_length", "prompt_embed"),
    )
    init = prefix.kernel_init
    hidden = linear(
        *(prefix, stack, f"{name}hidden", rows, prefix.hidden_dim, init),
        *(*layer_axis, "prompt_embed", "prompt_mlp"),
    )
    width = features if layers else stack.num_layers * features
    output = linear(
        *(prefix, stack, f"{name}output", jnp.tanh(hidden), width, init),
        *(*layer_axis, "prompt_mlp", "prefix_joined"),
    )
    if not layers:
        output = jnp.moveaxis(output.reshape(prefix.length, stack.num_layers, features), 1, 0)
    return output
