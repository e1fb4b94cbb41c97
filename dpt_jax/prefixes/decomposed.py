"""The decomposition of DPT as the structure that a prefix's keys and values share."""

import jax.numpy as jnp
from jax.lax import Precision

from dpt_jax.prefixes.base import KeysValues, Prefix, Stack, fan_in_uniform, split_keys_values
from dpt_jax.prompts import require_size
from dpt_jax.prompts.initializers import Initializer, gaussian


class DecomposedPrefix(Prefix):
    """Keys and values of a layer as one product `A [N, b] @ B [b, 2·H·kv]`.

    The low rank of decomposed prompt tuning (Xiao et al., Findings of EMNLP 2023, section 3) on
    prefixes: key and value of a token share its row of A, which is the linear shared structure of
    Le et al., "Revisiting Prefix-tuning", ICLR 2025. layers · b · (N + 2·H·kv) parameters a stack,
    or b · (N + layers · 2·H·kv) where the layers share A.

    Attributes:
        bottleneck: b, which bounds the rank of `[keys values]` (gin macro `BOTTLENECK`).
        across_layers: share A among the layers of a stack.
        a_init: draws `<stack>_A`, `[layers, N, b]`, or `[N, b]` where the layers share it.
        b_init: draws `<stack>_B`, `[layers, b, 2·H·kv]`, keys before values. With both defaults an
            entry of the product starts with a standard deviation of 1/sqrt(3), whatever b is.

    Raises:
        ValueError: as `Prefix`.
    """

    # A field after those of `Prefix` needs a default; there is none that fits every length.
    bottleneck: int = 0
    across_layers: bool = False
    a_init: Initializer = gaussian(1.0)
    b_init: Initializer = fan_in_uniform

    def __post_init__(self):
        require_size(self, "bottleneck", "BOTTLENECK")
        super().__post_init__()

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Multiplies the factors; see `Prefix.keys_and_values`."""
        layers: tuple[int, ...] = () if self.across_layers else (stack.num_layers,)
        a = self.declare(
            stack,
            "A",
            self.a_init,
            (*layers, self.length, self.bottleneck),
            *(*("prefix_layers",)[: len(layers)], "prefix_length", "bottleneck"),
        )
        b = self.declare(
            stack,
            "B",
            self.b_init,
            (stack.num_layers, self.bottleneck, 2 * stack.joined_dim),
            *("prefix_layers", "bottleneck", "prefix_joined"),
        )
        return split_keys_values(jnp.matmul(a, b, precision=Precision.HIGHEST), stack)
