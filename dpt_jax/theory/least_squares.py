"""A least-squares estimator: L-BFGS from many starts side by side, the best kept."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

# A step that lowers the loss by less than this share of it is the last.
_ROUNDING = 1e-11


def mean_over_points(
    loss: Callable[[Array, Any], Array], points: Any, count: Int[Array, ""] | int, chunk: int
) -> Callable[[Array], Array]:
    """The mean of a loss over the first `count` points, as a function of a vector.

    Points come chunk by chunk, and `count` may be traced: one compiled program serves every number
    of points.

    Args:
      loss: of (parameters, points), one value a point: `[chunk]`.
      points: a tree of arrays whose last axis is the points, a multiple of `chunk`.
      count: how many of them count.
      chunk: how many are taken at once.
    """

    def part(params, number):
        first = number * chunk
        taken = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, chunk, leaf.ndim - 1), points
        )
        valid = first + jnp.arange(chunk) < count
        return jnp.where(valid, loss(params, taken), 0).sum() / count

    def add(total, params, of):
        def body(number, total):
            return jax.tree.map(jnp.add, total, of(params, number))

        return jax.lax.fori_loop(0, -(-count // chunk), body, total)

    @jax.custom_vjp
    def mean(params):
        return add(jnp.zeros((), params.dtype), params, part)

    def forward(params):
        zero = (jnp.zeros((), params.dtype), jnp.zeros_like(params))
        return add(zero, params, jax.value_and_grad(part))

    mean.defvjp(forward, lambda gradient, scale: (scale * gradient,))
    return mean


def minimize(
    loss: Callable[[Float[Array, "p"]], Array], start: Float[Array, "p"], steps: int
) -> tuple[Float[Array, "p"], Float[Array, ""]]:
    """L-BFGS with a line search (optax), for at most a number of steps.

    It stops earlier where a step no longer lowers the loss. It can be mapped over starts.

    Returns:
      The parameters of the least loss seen, and that loss.
    """
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=10, initial_guess_strategy="one")
    optimizer = optax.lbfgs(linesearch=search)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state, least, best, number, _ = carry
        value, gradient = value_and_grad(params, state=state)
        ended = (number > 0) & ~(least - value > _ROUNDING * least)
        best = jnp.where(value < least, params, best)
        updates, state = optimizer.update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss
        )
        return params + updates, state, jnp.minimum(value, least), best, number + 1, ended

    def goes_on(carry):
        *_, number, ended = carry
        return (number <= steps) & ~ended

    infinite = jnp.asarray(jnp.inf, start.dtype)
    begin = (start, optimizer.init(start), infinite, start, 0, jnp.asarray(False))
    _, _, least, best, _, _ = jax.lax.while_loop(goes_on, step, begin)
    return best, least
