"""Means over repeats with their intervals, and slopes on logarithmic axes."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

BOOTSTRAPS = 1000


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, mean and upper end: the 95 % interval of a mean by Student's t."""
    array = np.asarray(values, float)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return mean - half, mean, mean + half


def shown(values: Sequence[float], digits: int = 3) -> str:
    """A mean with half the width of its interval, as text."""
    low, mean, _ = interval(values)
    return f"{mean:.{digits}f} ± {mean - low:.{digits}f}"


def slope(sizes: Sequence[float], values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The slope of log(median over repeats) against log(size), between the ends of its interval.

    Args:
      sizes: the sizes.
      values: of each size, the value of each repeat.

    Returns:
      The 2.5 % quantile of the slope, the slope, and the 97.5 % quantile; repeats are drawn again
      with replacement, those of each size by themselves.
    """
    table = np.log(np.maximum(np.asarray(values, float), 1e-300))
    logs = np.log(np.asarray(sizes, float))
    centred = (logs - logs.mean()) / ((logs - logs.mean()) ** 2).sum()
    rng = np.random.default_rng(0)
    draws = rng.integers(table.shape[1], size=(BOOTSTRAPS, *table.shape))
    again = np.median(np.take_along_axis(table[None], draws, axis=2), axis=2) @ centred
    low, high = np.quantile(again, [0.025, 0.975])
    return float(low), float(np.median(table, axis=1) @ centred), float(high)
