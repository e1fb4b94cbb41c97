"""One training step: loss, gradients of the trainable part, update. Pure functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dpt_jax.training.state import Params, TrainState, merge_params

# The arrays of a batch; all have the batch as their first axis.
Batch = dict[str, Any]
# (trainable, frozen, batch, dropout key) -> (summed loss, number of things summed over)
LossFn = Callable[[Params, Params, Batch, Array], tuple[Float[Array, ""], Float[Array, ""]]]


def token_loss(
    logits: Float[Array, "batch target vocab"],
    targets: Int[Array, "batch target"],
    z_loss: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy summed over the real target tokens, and their number.

    Args:
      logits: unnormalized log-probabilities, float32.
      targets: target tokens, 0 is padding and does not count.
      z_loss: weight of `log(Z)^2`, which keeps the softmax normalizer near 1 (T5X's default for
        pretraining is 1e-4; prompt tuning uses none).
    """
    weights = (targets > 0).astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = log_z - target_logits
    if z_loss:
        loss = loss + z_loss * jnp.square(log_z)
    return jnp.sum(loss * weights), jnp.sum(weights)


def make_loss_fn(model: Any, z_loss: float = 0.0) -> LossFn:
    """The training loss of an encoder-decoder `model` (see `dpt_jax.models.Transformer`)."""
    enable_dropout = model.config.dropout_rate > 0

    def loss_fn(trainable, frozen, batch, dropout_key):
        logits = model.apply(
            {"params": merge_params(trainable, frozen)},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            enable_dropout=enable_dropout,
            rngs={"dropout": dropout_key} if enable_dropout else None,
        )
        return token_loss(logits, batch["decoder_target_tokens"], z_loss)

    return loss_fn


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
