"""`sample-size`: how far off the three steps are, against n/d, for several dimensions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import Table
from dpt_jax.theory import contextual_mixture, in_law, population, three_steps
from dpt_jax.theory.experiments.base import Experiment, Row, distinct, grid, where
from dpt_jax.theory.experiments.drawing import finish, panels_of
from dpt_jax.theory.experiments.statistics import interval, slope

WHAT = ("w1", "q1", "w2")
# Slopes are fitted from here on, where w1's own error no longer matters for q1.
FROM = 4.0
# Examples drawn at once: a size that memory does not notice.
_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes.

    Attributes:
      dims: d.
      ratios: n/d.
      length: T.
      share: ζ.
      head: W.
      context: Q.
      step_w: η.
      repeats: of each cell.
      seed: of all draws.
    """

    dims: tuple[int, ...] = (25, 50, 100, 200)
    ratios: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    length: int = 500
    share: float = 0.1
    head: float = 0.3
    context: float = 2.0
    step_w: float = 1.0
    repeats: int = 20
    seed: int = 0


def cells(settings: Settings) -> list[dict[str, Any]]:
    """Dimensions and ratios; n is even, as balanced labels need it."""
    return [
        {**cell, "n": max(2, 2 * round(cell["ratio"] * cell["dim"] / 2))}
        for cell in grid(dim=settings.dims, ratio=settings.ratios)
    ]


@jax.jit
def _measure(mixture, key, count, step_w, norm):
    est = three_steps.three_steps(
        mixture,
        key,
        count=count,
        batch=_BATCH,
        step_w=step_w,
        query_norm=norm,
        draws="in law",
    )
    truths = (mixture.head, mixture.context, mixture.head)
    return [
        1 - (in_law.direction_of(found)[0] @ in_law.direction_of(true)[0]) ** 2
        for found, true in zip((est.w1, est.q1, est.w2), truths, strict=True)
    ]


def run(settings: Settings, cell: dict[str, Any]) -> dict[str, Any]:
    """1 - cos² of all three, for every repeat."""
    mixture = contextual_mixture.core(
        cell["dim"],
        context_norm=settings.context,
        head_norm=settings.head,
        share=settings.share,
        length=settings.length,
    )
    three_steps.check_step(mixture, settings.step_w)
    three_steps.check_splits(cell["n"], _BATCH, balanced=True)
    keys = jax.random.split(jax.random.key(settings.seed), settings.repeats)
    sizes = (cell["n"], settings.step_w, settings.context / 2)
    found = np.asarray([_measure(mixture, key, *sizes) for key in keys], float)
    scales = population.scales_of(mixture)
    misses = {
        "w1": population.w1_miss(scales, cell["dim"], cell["n"], balanced=True),
        "q1": population.q1_miss(scales, cell["dim"], cell["n"], balanced=True),
    }
    return {
        **{name: found[:, i].tolist() for i, name in enumerate(WHAT)},
        "predicted": {name: miss / (1 + miss) for name, miss in misses.items()},
    }


def table(rows: Sequence[Row]) -> Table:
    """1 - cos² against n/d, dimension by dimension, and the slopes."""
    dims, ratios = distinct(rows, "dim"), distinct(rows, "ratio")
    lines = []
    for name in WHAT:
        for dim in dims:
            found = where(rows, dim=dim)
            of_slope = [r for r in found if r["ratio"] >= FROM]
            low, fitted, high = slope([r["n"] for r in of_slope], [r[name] for r in of_slope])
            cells_ = [f"{np.mean(r[name]):.4f}" for r in found]
            lines.append([name, f"{dim}", *cells_, f"{fitted:.2f} [{low:.2f}, {high:.2f}]"])
        if name in rows[0]["predicted"]:
            said = [f"{r['predicted'][name]:.4f}" for r in where(rows, dim=dims[-1])]
            lines.append([name, f"predicted, d = {dims[-1]}", *said, ""])
    notes = []
    for name in WHAT:
        spread = max(
            max(means) / min(means)
            for ratio in ratios
            if ratio >= FROM and (means := [np.mean(r[name]) for r in where(rows, ratio=ratio)])
        )
        notes.append(
            f"{name}: over n/d from {FROM:g} on, the largest mean of a dimension is at most "
            f"{spread:.2f} times the smallest."
        )
    caption = (
        f"1 - cos², mean of {len(rows[0]['w1'])} repeats, against n/d; slope of log 1 - cos² "
        f"against log n from n/d = {FROM:g} on, with its bootstrap interval."
    )
    header = ["of", "d", *(f"n/d = {r:g}" for r in ratios), "slope"]
    return Table(header, lines, 2, caption, notes)


def figure(rows: Sequence[Row]) -> Any:
    """1 - cos² against n/d: lines of all dimensions, predictions dotted."""
    dims = distinct(rows, "dim")
    drawn, axes = panels_of([f"1 - cos² of {name}" for name in WHAT], "")
    for axis, name in zip(axes, WHAT, strict=True):
        for dim, look in zip(dims, panels.looks([(d,) for d in dims]), strict=True):
            points = [
                (r["ratio"], *(max(v, 1e-6) for v in interval(r[name])))
                for r in where(rows, dim=dim)
            ]
            panels.line(axis, points, look, f"d = {dim}")
        if name in rows[0]["predicted"]:
            said = [(r["ratio"], r["predicted"][name]) for r in where(rows, dim=dims[-1])]
            axis.plot(*zip(*said, strict=True), color="black", linestyle=":", label="predicted")
        panels.x_values(axis, distinct(rows, "ratio"), log=True)
        axis.set_yscale("log")
        axis.set_xlabel("n/d")
    return finish(drawn, EXPERIMENT.title, "bands: 95 % intervals of the mean")


EXPERIMENT = Experiment(
    "sample-size",
    "Examples per dimension",
    Settings(),
    {"repeats": 100, "ratios": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)},
    cells,
    run,
    table,
    figure,
)
