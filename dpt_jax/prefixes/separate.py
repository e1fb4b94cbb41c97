"""The control for a shared network: one for the keys, and another for the values."""

from dpt_jax.prefixes.base import KeysValues, Prefix, Stack, fan_in_uniform, split_heads
from dpt_jax.prefixes.deep_shared import network
from dpt_jax.prompts import require_size
from dpt_jax.prompts.initializers import Initializer, uniform


class SeparatePrefix(Prefix):
    """Keys and values from two networks with rows of their own, each as in `DeepSharedPrefix`.

    It has the depth of the deep prefix and shares nothing between key and value, which tells what
    either is worth, the question of Le et al., "Revisiting Prefix-tuning", ICLR 2025. It has
    layers · 2 · (N·D + D·h + h + (h + 1) · H·kv) parameters a stack.

    Attributes:
        hidden_dim: h, the width of each hidden layer.
        rows_init: draws `<stack>_keys_rows` and `<stack>_values_rows`, `[layers, N, D]`.
        kernel_init: draws the kernels `[layers, in, out]`.

    Raises:
        ValueError: as `Prefix`.
    """

    hidden_dim: int = 48
    rows_init: Initializer = uniform(0.0625)
    kernel_init: Initializer = fan_in_uniform

    def __post_init__(self):
        require_size(self, "hidden_dim", f"prefixes.{type(self).__name__}.hidden_dim")
        super().__post_init__()

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Runs both tables through their networks; see `Prefix.keys_and_values`."""
        keys = network(self, stack, "keys_", False, stack.joined_dim)
        values = network(self, stack, "values_", False, stack.joined_dim)
        return split_heads(keys, stack), split_heads(values, stack)
