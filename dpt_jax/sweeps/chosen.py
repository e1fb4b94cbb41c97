"""Points of a sweep that another sweep has chosen, as a learning rate on held out rows."""

import os
import statistics
from collections.abc import Sequence
from typing import Any

from dpt_jax.analysis.results import RESULTS, read_results
from dpt_jax.analysis.tables import Row, axes_of, distinct
from dpt_jax.errors import InputError
from dpt_jax.paths import as_path


def chosen_points(
    folder: str | os.PathLike, axis: str = "LEARNING_RATE_PEAK", each: Sequence[str] = ("method",)
) -> list[dict[str, Any]]:
    """The value of an axis that was best for each method; bound through gin as `Sweep.points`.

    Best is the highest score, averaged over all axes but `axis` and `each`; of equals the smaller
    value. A value with which a run failed, as by diverging, is not chosen.

    Args:
      folder: the results of the sweep that tried the values.
      axis: the axis that is chosen.
      each: the axes for each combination of whose values it is chosen.

    Returns:
      For each combination, in the order of the results, a mapping of `each` and `axis` to a value.

    Raises:
      InputError: when there are no such results, points of it are not done, or the values of a
        combination have all failed.
    """
    path = as_path(folder)
    if not (path / RESULTS).exists():
        raise InputError(
            f"{path} has no {RESULTS}, by which {axis} is chosen. Run that sweep first, or set "
            "--gin.chosen_points.folder."
        )
    rows = read_results(path)
    for name in (axis, *each):
        if any(name not in row["axes"] for row in rows):
            raise InputError(
                f"{path} is a sweep without the axis {name}. Set --gin.chosen_points.axis, "
                "--gin.chosen_points.each or --gin.chosen_points.folder."
            )
    left = [row["point"] for row in rows if row["status"] not in ("done", "failed")]
    if left:
        raise InputError(
            f"{path} has {len(left)} of {len(rows)} points that are not done, such as {left[0]}; "
            f"{axis} is chosen when all are. Run that sweep again."
        )
    points = []
    for key in distinct(rows, each):
        known = dict(zip(each, key, strict=True))
        means = _means([row for row in rows if axes_of(row, each) == key], axis)
        if not means:
            raise InputError(f"With {known} the runs of {path} have failed for every {axis}.")
        points.append({**known, axis: min(means, key=lambda value: (-means[value], value))})
    return points


def _means(rows: Sequence[Row], axis: str) -> dict[Any, float]:
    """The mean score of each value of an axis with which no run failed."""
    scores: dict[Any, list[float]] = {row["axes"][axis]: [] for row in rows}
    for row in rows:
        value = row["axes"][axis]
        if row["status"] == "failed" or row["value"] is None:
            scores.pop(value, None)
        elif value in scores:
            scores[value].append(row["value"])
    return {value: statistics.fmean(found) for value, found in scores.items()}
