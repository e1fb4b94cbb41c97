"""Learning-rate schedules that know how long the run is.

The trainer calls a schedule factory with the number of training steps and hands the result to the
optimizer, so the rate that is logged is the one that is used. In gin::

    RunConfig.learning_rate = @schedules.linear_warmup_linear_decay
    schedules.linear_warmup_linear_decay.peak = 0.3
"""

import math
import numbers

import optax

from dpt_jax.errors import InputError


def constant(train_steps: int, peak: float = 0.3) -> optax.Schedule:
    """The same rate at every step (DPT paper, section 3: 0.3).

    Args:
      train_steps: the run's length, which does not matter here.
      peak: the learning rate, or the highest one of a schedule that changes it.
    """
    del train_steps
    _check("LEARNING_RATE_PEAK", peak, math.inf)
    return optax.constant_schedule(peak)


def linear_warmup_linear_decay(
    train_steps: int, peak: float = 0.3, warmup_fraction: float = 0.1
) -> optax.Schedule:
    """Rises from 0 to `peak` over the first `warmup_fraction` of training, then falls to 0.

    The DPT authors' released code trains with this one.

    Args:
      train_steps: the run's length.
      peak: the highest rate.
      warmup_fraction: the share of the run in which the rate rises.
    """
    _check("LEARNING_RATE_PEAK", peak, math.inf)
    _check("schedules.linear_warmup_linear_decay.warmup_fraction", warmup_fraction, 1)
    warmup = max(1, round(train_steps * warmup_fraction))
    return (
        optax.warmup_constant_schedule(0.0, peak, warmup)
        if train_steps <= warmup
        else (
            optax.join_schedules(
                [
                    optax.linear_schedule(0.0, peak, warmup),
                    optax.linear_schedule(peak, 0.0, train_steps - warmup),
                ],
                [warmup],
            )
        )
    )


def linear_warmup_cosine(
    train_steps: int, peak: float = 0.1, warmup_fraction: float = 0.1
) -> optax.Schedule:
    """Rises from 0 to `peak` over the first `warmup_fraction`, then falls to 0 along a cosine.

    What vision transformers are usually tuned with (Jia et al., "Visual Prompt Tuning", ECCV 2022).

    Args:
      train_steps: the run's length.
      peak: the highest rate.
      warmup_fraction: the share of the run in which the rate rises.
    """
    _check("LEARNING_RATE_PEAK", peak, math.inf)
    _check("schedules.linear_warmup_cosine.warmup_fraction", warmup_fraction, 1)
    warmup = max(1, round(train_steps * warmup_fraction))
    if train_steps <= warmup:
        return optax.warmup_constant_schedule(0.0, peak, warmup)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, train_steps)


def _check(flag: str, value: float, most: float) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 <= value <= most):
        wanted = "a number, 0 or more" if most == math.inf else f"a number from 0 to {most}"
        raise InputError(f"{flag} is {value!r}; it must be {wanted}. Set --gin.{flag}.")
