"""A least-squares estimator: L-BFGS from many starts side by side, the best kept."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def minimize(loss: Callable[[Any], Array], start: Any, steps: int) -> tuple[Any, Float[Array, ""]]:
    """L-BFGS with a line search (optax), for at most a number of steps.

    It stops earlier where a step no longer lowers the loss. It can be mapped over starts.

    Args:
      loss: a scalar function of a tree of arrays, without side effects.
      start: where to begin.
      steps: how many, at most.

    Returns:
      The parameters of the least loss seen, and that loss.
    """
    optimizer = optax.lbfgs(
        linesearch=optax.scale_by_zoom_linesearch(
            max_linesearch_steps=12, initial_guess_strategy="one"
        )
    )
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state, least, best, number, _ = carry
        value, gradient = value_and_grad(params, state=state)
        lower = value < least
        best = jax.tree.map(lambda new, old: jnp.where(lower, new, old), params, best)
        # A step that changes nothing within rounding is the last. The first has nothing before it.
        small = least - value <= 1e-12 * jnp.abs(least)
        updates, state = optimizer.update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss
        )
        moved = optax.apply_updates(params, updates)
        return moved, state, jnp.where(lower, value, least), best, number + 1, small

    def goes_on(carry):
        *_, number, small = carry
        return (number < steps) & ~small

    infinite = jnp.asarray(jnp.inf, jax.eval_shape(loss, start).dtype)
    begin = (start, optimizer.init(start), infinite, start, 0, jnp.asarray(False))
    last, _, least, best, _, _ = jax.lax.while_loop(goes_on, step, begin)
    value = loss(last)
    lower = value < least
    best = jax.tree.map(lambda new, old: jnp.where(lower, new, old), last, best)
    return best, jnp.where(lower, value, least)


def best_of(loss: Callable[[Any], Array], starts: Any, steps: int) -> tuple[Any, Float[Array, ""]]:
    """Minimizes from several starts side by side; returns the best parameters and their loss.

    Args:
      loss: as of `minimize`.
      starts: a tree of arrays with a leading axis, a start each.
      steps: of each.
    """
    params, values = jax.vmap(lambda start: minimize(loss, start, steps))(starts)
    best = jnp.nanargmin(values)
    return jax.tree.map(lambda leaf: leaf[best], params), values[best]
