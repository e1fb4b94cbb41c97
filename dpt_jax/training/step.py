"""One training step: loss, gradients of the trainable part, update. Pure functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dpt_jax.devices import partitioning
from dpt_jax.training.state import Params, TrainState

# The arrays of a batch; all have the batch as their first axis.
Batch = dict[str, Any]
# (trainable, frozen, batch, dropout key) -> (summed loss, number of things summed over)
LossFn = Callable[[Params, Params, Batch, Array], tuple[Float[Array, ""], Float[Array, ""]]]


# (trainable, frozen, batch, dropout key) -> ((summed loss, number summed over), summed gradients)
GradientFn = Callable[
    [Params, Params, Batch, Array], tuple[tuple[Float[Array, ""], Float[Array, ""]], Params]
]


def make_gradient_fn(loss_fn: LossFn, microbatches: int = 1) -> GradientFn:
    """Returns the loss of a batch and its gradient with respect to the trainable parameters.

    With `microbatches` > 1 the batch is run in that many equal parts one after the other, and sums,
    not means, are accumulated: the result is that of the whole batch, whatever the parts' numbers
    of target tokens, for a fraction of the memory of its activations.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if microbatches == 1:
        return grad_fn

    def summed_gradients(params, frozen, batch, key):
        # Row i goes to part i % microbatches, so that every device keeps a share of each part.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def accumulate(total, part_and_key):
            part = grad_fn(params, frozen, *part_and_key)
            return jax.tree.map(jnp.add, total, part), None

        shapes = jax.eval_shape(grad_fn, params, frozen, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        keys = jax.random.split(key, microbatches)
        return jax.lax.scan(accumulate, zeros, (parts, keys))[0]

    return summed_gradients


def dropout_key(state: TrainState) -> Array:
    """The key of the step that follows `state`: a function of the run's seed and the step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)


def apply_gradients(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    loss: Float[Array, ""],
    count: Float[Array, ""],
    grads: Params,
) -> tuple[TrainState, dict[str, Array]]:
    """The state after an update, and the step's metrics.

    Args:
      state: before the update.
      optimizer: the one that made the state.
      loss: summed over the batch's target tokens.
      count: how many these are.
      grads: summed likewise.

    Returns:
      The new state; and the mean loss, the number of target tokens and the norm of the mean
      gradient before the optimizer sees it.
    """
    count = jnp.maximum(count, 1.0)
    grads = jax.tree.map(lambda g: g / count, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
    )
    metrics = {
        "loss": loss / count,
        "target_tokens": count,
        "grad_norm": optax.global_norm(grads),
    }
    return new_state, metrics


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, Array]]]:
    """Returns `step(state, frozen, batch) -> (state, metrics)`, to be compiled by the caller.

    Only `state.params` is differentiated; `make_gradient_fn` tells what `microbatches` are, and
    `apply_gradients` the metrics.
    """
    gradients = make_gradient_fn(loss_fn, microbatches)

    def train_step(state: TrainState, frozen: Params, batch: Batch):
        (loss, count), grads = gradients(state.params, frozen, batch, dropout_key(state))
        return apply_gradients(state, optimizer, loss, count, grads)

    return train_step


def jit_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    microbatches: int,
    state_shardings: Any,
    mesh: Mesh,
) -> Any:
    """`make_train_step` as it is run, and compiled ahead of time by `dpt plan`.

    The state that is given is used up. `state_shardings` is a tree like the state.
    """
    return jax.jit(
        make_train_step(loss_fn, optimizer, microbatches),
        donate_argnums=0,
        out_shardings=(state_shardings, partitioning.replicated(mesh)),
    )
