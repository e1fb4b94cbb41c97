"""Optimizers that Optax has no single function for; gin names them as it names Optax's own.

OPTIMIZER = @optimizers.orthogonal
LEARNING_RATE_PEAK = 0.1
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpt_jax.errors import InputError

_MATRIX, _OTHER = "matrix", "other"
# The linear heads of a ViT.
_HEADS = ("head", "prompt_head")
# Of x (a + b x^2 + c x^4), by which Newton-Schulz iterations move every singular value towards 1.
# Muon's own five bring all that are not tiny to between 0.7 and 1.2, and Newton's two from there to
# within 1 % of 1.
_COEFFICIENTS = 5 * ((3.4445, -4.7750, 2.0315),) + 2 * ((1.5, -0.5, 0.0),)


def orthogonal(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, keep_norm: bool = True
) -> optax.GradientTransformation:
    """Orthogonal updates for matrices, of a size relative to theirs; Adam for all else.

    The direction is that of Muon (Jordan et al., 2024): the polar factor Q of the gradients'
    Nesterov momentum, which has its singular vectors, and 1 for every singular value. The size is a
    share of the norm of the matrix `W [m, n]` itself, which stays as it is::

        W' = W - rate * |W| / sqrt(min(m, n)) * Q
        W <- W' * |W| / |W'|

    So neither the scale of the loss nor that of the matrix changes what a rate means, clipping does
    nothing, and training turns a matrix without making it larger or smaller: its first values
    decide its norm (`dpt_jax.prompts.ResidualNorm`). A matrix of zeros stays one; the heads of a
    ViT, which start so, are trained by Adam.

    Momentum and Q are `optax.contrib.scale_by_muon`, with two more iterations than its default's
    five: Q is then the exact polar factor to about 1 %, and a singular value decomposition would be
    slow on accelerators. `optax.contrib.muon` as a whole has another size: its rate is not
    relative, and would have to be found anew for each model, length and bottleneck.

    The state is one number a parameter for matrices, half of Adam's.

    Args:
      learning_rate: a number or a schedule, in [0, 1).
      momentum: the decay of the gradients' average.
      keep_norm: whether a matrix keeps its norm. Without, relative steps make it grow and grow.

    Raises:
      InputError: when the rate, or that of a schedule's first step, is outside [0, 1).
    """
    _check(learning_rate)

    def dimensions(params):
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), params)

    matrices = optax.chain(
        optax.contrib.scale_by_muon(
            _COEFFICIENTS,
            len(_COEFFICIENTS),
            beta=momentum,
            weight_dimension_numbers=dimensions,
        ),
        relative(learning_rate, keep_norm),
    )
    return optax.partition(
        {_MATRIX: matrices, _OTHER: optax.adam(learning_rate)},
        lambda params: jax.tree_util.tree_map_with_path(_kind, params),
    )


def relative(
    learning_rate: optax.ScalarOrSchedule, keep_norm: bool = True
) -> optax.GradientTransformation:
    """Turns orthogonal directions into steps that are a share of each matrix's norm.

    Args:
      learning_rate: that share, a number or a schedule.
      keep_norm: see `orthogonal`.

    Returns:
      A transformation whose update needs the parameters.
    """

    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(directions, state, params=None):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def step(
            direction: Float[Array, "m n"], matrix: Float[Array, "m n"]
        ) -> Float[Array, "m n"]:
            norm = jnp.linalg.norm(matrix)
            moved = matrix - rate * norm / min(matrix.shape) ** 0.5 * direction
            if keep_norm:
                # A matrix of zeros has no direction to keep.
                moved = moved * norm / jnp.maximum(jnp.linalg.norm(moved), jnp.finfo(norm).tiny)
            return moved - matrix

        steps = jax.tree.map(step, directions, params)
        return steps, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def sgd_with_decay(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """SGD with momentum and L2 decay of everything but the head's bias, as PyTorch's.

    The decay is added to the gradient before the momentum, not after it as in AdamW (Jia et al.,
    "Visual Prompt Tuning", ECCV 2022, and Le et al., "Revisiting Prefix-tuning", ICLR 2025, train
    vision transformers so).

    Args:
      learning_rate: a rate or a schedule.
      momentum: of the sum of gradients.
      weight_decay: what a weight is multiplied by, to be added to its gradient.
    """

    def decayed(params: Any) -> Any:
        def one(path: Any, _: Any) -> bool:
            names = [key.key for key in path]
            return not (names[0] in _HEADS and names[-1] == "bias")

        return jax.tree_util.tree_map_with_path(one, params)

    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed), optax.sgd(learning_rate, momentum)
    )


def _kind(path: tuple[Any, ...], leaf: Array) -> str:
    in_head = bool(path) and getattr(path[0], "key", None) in _HEADS
    return _MATRIX if leaf.ndim == 2 and not in_head else _OTHER


def _check(learning_rate: optax.ScalarOrSchedule) -> None:
    """Refuses a rate that is known here; T5X gives that of each step when it is computed."""
    rate = learning_rate(0) if callable(learning_rate) else learning_rate
    if isinstance(rate, jax.core.Tracer):
        return
    if not (isinstance(rate, numbers.Real) or jnp.ndim(rate) == 0) or not 0 <= rate < 1:
        raise InputError(
            f"LEARNING_RATE_PEAK is {float(rate):g}, but a step of optimizers.orthogonal is a "
            "share of the norm of what is trained: it must be from 0 to below 1. Set "
            "--gin.LEARNING_RATE_PEAK, as to 0.1."
        )
