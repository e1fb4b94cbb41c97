"""A prefix whose keys and values are one layer away from a shared row."""

import jax.numpy as jnp

from dpt_jax.prefixes.base import (
    KeysValues,
    Prefix,
    Stack,
    fan_in_uniform,
    linear,
    split_keys_values,
)
from dpt_jax.prompts.initializers import Initializer, uniform


class OneLayerSharedPrefix(Prefix):
    """Keys are `tanh(W1 p + b1)` and values `tanh(W2 p + b2)` of one row p a token and layer.

    The form that theorem 3 of Le et al., "Revisiting Prefix-tuning", ICLR 2025, section 4.2.2,
    treats: layers · (N·D + (D + 1) · 2·H·kv) parameters a stack. No number of it exceeds 1.

    Attributes:
        rows_init: draws `<stack>_rows`, `[layers, N, D]`.
        kernel_init: draws `<stack>_output_kernel`, `[layers, D, 2·H·kv]`, W1 before W2.

    Raises:
        ValueError: as `Prefix`.
    """

    rows_init: Initializer = uniform(0.0625)
    kernel_init: Initializer = fan_in_uniform

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Runs the rows through the layer; see `Prefix.keys_and_values`."""
        rows = self.declare(
            stack,
            "rows",
            self.rows_init,
            (stack.num_layers, self.length, stack.embed_dim),
            *("prefix_layers", "prefix_length", "prompt_embed"),
        )
        joined = linear(
            *(self, stack, "output", rows, 2 * stack.joined_dim, self.kernel_init),
            *("prefix_layers", "prompt_embed", "prefix_joined"),
        )
        return split_keys_values(jnp.tanh(joined), stack)
