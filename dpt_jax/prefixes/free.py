"""The plain prefix: keys and values that share nothing."""

from collections.abc import Mapping

from dpt_jax.prefixes.base import KeysValues, Prefix, Stack
from dpt_jax.prompts.initializers import Initializer, gaussian


class FreePrefix(Prefix):
    """A prefix whose every number is a parameter of its own: layers · N · 2 · H · kv a stack.

    Keys and values enter the attention as they are, behind the frozen projections. Le et al.,
    "Revisiting Prefix-tuning", ICLR 2025, call this form *No-share*. Every other prefix folds into
    one of these.

    Attributes:
        keys_init: draws `<stack>_keys`, `[layers, N, H, kv]`; a mapping has an initializer for each
            stack.
        values_init: draws `<stack>_values`, of the same shape, likewise.

    Raises:
        ValueError: as `Prefix`.
    """

    keys_init: Initializer | Mapping[str, Initializer] = gaussian(1.0)
    values_init: Initializer | Mapping[str, Initializer] = gaussian(1.0)

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Returns the parameters themselves; see `Prefix.keys_and_values`."""
        shape = (stack.num_layers, self.length, stack.num_heads, stack.head_dim)
        axes = ("prefix_layers", "prefix_length", "heads", "kv")
        return (
            self.declare(stack, "keys", self.keys_init, shape, *axes),
            self.declare(stack, "values", self.values_init, shape, *axes),
        )


def as_free(prefix: Prefix) -> FreePrefix:
    """The plain prefix that one of any method folds into (`dpt_jax.models.network.fold_prefix`)."""
    return FreePrefix(prefix.length, prefix.stacks, prefix.layers, prefix.position_bias)
