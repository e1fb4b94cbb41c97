"""Activation functions, and what of them is kept for the backward pass.

What frozen kernels multiply is not needed again, so that an activation's own arrays are the largest
that a step holds, beside attention's scores. Automatic differentiation of a GELU keeps three of the
size of its input; here it keeps the input.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def _relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.maximum(x, 0)


@_relu.defjvp
def _relu_jvp(primals, tangents):
    # By the output's sign, not the input's, which need not be kept then.
    y = _relu(*primals)
    return y, jnp.where(y > 0, tangents[0], 0)


def _exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.gelu(x, approximate=False)


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": _relu,
    # The tanh form, which is what T5 1.1 was trained with.
    "gelu": jax.nn.gelu,
    "exact_gelu": _exact_gelu,
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}


def activate(names: Sequence[str], branches: Sequence[Array]) -> Float[Array, "..."]:
    """The product of what each function makes of its branch, as in a gated feed-forward block.

    Args:
      names: "relu", "gelu" (with a tanh), "exact_gelu", "silu" or "linear", one for each branch.
      branches: arrays of one shape.
    """

    def product(*branches: Array) -> Array:
        hidden = _FUNCTIONS[names[0]](branches[0])
        for name, branch in zip(names[1:], branches[1:], strict=True):
            hidden = hidden * _FUNCTIONS[name](branch)
        return hidden

    if tuple(names) in (("relu",), ("linear",)):
        return product(*branches)
    # Computed again in the backward pass: elementwise operations, and no matrix product.
    return jax.checkpoint(product)(*branches)
