"""Freezing, through T5X's optimizer interface: only what is trained is updated and has slots."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import optax
from t5x import optimizers
from t5x.partitioning import PartitionSpec

from dpt_jax.t5x.trained_parts import PROMPT, trained_of


class PromptOptimizer(optimizers.OptaxWrapper):
    """Updates prompt and prefix with an Optax optimizer and passes the rest through untouched.

    The frozen parameters are outside the optimizer: they have no slots, nothing is added to them
    (not even 0, which would turn -0.0 into 0.0), and XLA drops their gradients as unused.

    The learning rate is the one that T5X's `Trainer.learning_rate_fn` gives at each step, so that
    the rate T5X logs is the rate in use.
    """

    def __init__(
        self,
        optimizer: Callable[..., optax.GradientTransformation] = optax.adamw,
        clip_norm: float | None = None,
    ):
        """Takes the optimizer to be made anew for the rate of each step.

        Args:
          optimizer: OPTIMIZER, such as `optax.adamw`; called with the learning rate alone.
          clip_norm: CLIP_NORM, largest norm of the gradient of what is trained; None does not
            clip.
        """
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        super().__init__(self._transformation(0.0))

    def _transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        optimizer = self._optimizer(learning_rate)
        if self._clip_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(self._clip_norm), optimizer)

    def init_state(self, params: Mapping[str, Any]) -> optimizers.OptimizerState:
        """The state at step 0: slots for what is trained alone."""
        slots = self.optax_optimizer.init(_optimized(params))
        return optimizers.OptimizerState(step=jnp.zeros((), jnp.int32), param_states=slots)

    def apply_gradient(
        self, hyper_params: Any, params: Any, state: optimizers.OptimizerState, grads: Any
    ) -> tuple[Any, optimizers.OptimizerState]:
        """Returns the parameters with what is trained updated, and the new state."""
        update = self._transformation(hyper_params.learning_rate).update
        old = _optimized(params)
        updates, slots = update(_optimized(grads), state.param_states, old)
        new = optax.apply_updates(old, updates)
        new_params = flax.core.copy(params, {PROMPT: new} if _is_lone_prompt(params) else new)
        return new_params, optimizers.OptimizerState(step=state.step + 1, param_states=slots)

    def derive_logical_axes(
        self, optimizer: optimizers.Optimizer, param_logical_axes: Any
    ) -> optimizers.Optimizer:
        """Returns the optimizer with axis names for arrays: slots are small, so replicated.

        Works for every Optax optimizer, Adafactor's factored slots included.
        """

        def replicated(slot):
            return PartitionSpec(*[None] * slot.ndim) if getattr(slot, "ndim", 0) else None

        slots = jax.tree.map(replicated, optimizer.state.param_states)
        return optimizer.replace(
            state=optimizers.OptimizerState(step=None, param_states=slots),
            target=param_logical_axes,
        )


def learning_rate_fn(
    schedule: Callable[[int], optax.Schedule], train_steps: int
) -> Callable[[Any], jax.Array]:
    """The rate at each step, for T5X's `Trainer.learning_rate_fn`.

    Args:
      schedule: LEARNING_RATE, called with the number of steps, as in `dpt train`.
      train_steps: TRAIN_STEPS.
    """
    rate = schedule(train_steps)
    return lambda step: jnp.asarray(rate(step), jnp.float32)


def _optimized(tree: Mapping[str, Any]) -> Any:
    """What the Optax optimizer is given of a tree.

    A lone prompt is not put under its name: runs from before there were prefixes have their slots
    saved that way.
    """
    parts = trained_of(tree)
    return parts[PROMPT] if _is_lone_prompt(tree) else parts


def _is_lone_prompt(tree: Mapping[str, Any]) -> bool:
    return list(trained_of(tree)) == [PROMPT]
