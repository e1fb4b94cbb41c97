"""One prefix for each row of a batch, for inference with several at once."""

import jax.numpy as jnp
from flax import linen as nn

from dpt_jax.prefixes.base import KeysValues, Prefix, Stack
from dpt_jax.prompts import require_size


class PrefixPerRow(Prefix):
    """Holds folded prefixes, one for each row of a batch; not a method to train.

    Attributes:
        batch_size: rows, each with a prefix of its own.
    """

    batch_size: int = 1

    def __post_init__(self):
        require_size(self, "batch_size", "BATCH_SIZE")
        super().__post_init__()

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Returns keys and values, each float32 `[layers, batch, N, heads, kv]`."""
        shape = (self.batch_size, stack.num_layers, self.length, stack.num_heads, stack.head_dim)
        axes = ("batch", "prefix_layers", "prefix_length", "heads", "kv")
        zeros = nn.initializers.zeros
        keys, values = (
            self.declare(stack, name, zeros, shape, *axes) for name in ("keys", "values")
        )
        return jnp.moveaxis(keys, 0, 1), jnp.moveaxis(values, 0, 1)
