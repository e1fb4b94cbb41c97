"""`debiasing`: the error with and without debiasing, over the correlation of q* and w*."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import Table
from dpt_jax.theory import contextual_mixture, in_law, three_steps
from dpt_jax.theory.experiments.base import Experiment, Row, distinct, grid, where
from dpt_jax.theory.experiments.drawing import finish, panels_of
from dpt_jax.theory.experiments.statistics import interval, shown
from dpt_jax.theory.three_steps import READINGS

# Examples drawn at once.
_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes.

    Attributes:
      dim: d.
      length: T.
      share: ζ.
      count: n, examples in each split.
      head: W.
      correlations: ρ.
      ratios: Q/W.
      step_w: η.
      repeats: of each cell.
      seed: of all draws.
    """

    dim: int = 50
    length: int = 500
    share: float = 0.1
    count: int = 500
    head: float = 0.3
    correlations: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    ratios: tuple[float, ...] = (1.0, 3.0, 7.0)
    step_w: float = 1.0
    repeats: int = 20
    seed: int = 0


def cells(settings: Settings) -> list[dict[str, Any]]:
    """Labels, ratios and correlations."""
    return grid(
        labels=("balanced", "random"),
        ratio=settings.ratios,
        correlation=settings.correlations,
    )


@functools.cache
def _measure(settings: Settings, balanced: bool):
    def measure(mixture, key, norm):
        steps_key, test_key = jax.random.split(key)
        est = three_steps.three_steps(
            mixture,
            steps_key,
            count=settings.count,
            batch=_BATCH,
            step_w=settings.step_w,
            query_norm=norm,
            balanced=balanced,
            draws="in law",
            fresh=True,
        )
        chosen = {name: est.debiased(name) for name in READINGS}
        return {
            name: in_law.test_error(mixture, test_key, one.w, est.q1, one.offset, 500)
            for name, one in chosen.items()
        }

    return jax.jit(measure)


def run(settings: Settings, cell: dict[str, Any]) -> dict[str, Any]:
    """The error of every reading, for every repeat."""
    context = cell["ratio"] * settings.head
    mixture = contextual_mixture.core(
        settings.dim,
        context_norm=context,
        head_norm=settings.head,
        correlation=cell["correlation"],
        share=settings.share,
        length=settings.length,
    )
    balanced = cell["labels"] == "balanced"
    three_steps.check_splits(settings.count, _BATCH, balanced)
    measure = _measure(settings, balanced)
    keys = jax.random.split(jax.random.key(settings.seed), settings.repeats)
    found = [measure(mixture, key, context / 2) for key in keys]
    return {name: [float(one[name]) for one in found] for name in READINGS}


def table(rows: Sequence[Row]) -> Table:
    """The errors of all readings."""
    lines = [
        [
            row["labels"],
            f"{row['ratio']:g}",
            f"{row['correlation']:g}",
            "yes" if row["correlation"] * row["ratio"] > 1 else "no",
            *(shown(row[name]) for name in READINGS),
        ]
        for row in rows
    ]
    caption = (
        f"Test error, mean of {len(rows[0]['none'])} repeats with 95 % intervals. mean: the mean "
        "output over the third split is subtracted; fresh mean: that over a split of its own; "
        "projection: the head less its part along q1."
    )
    return Table(["labels", "Q/W", "ρ", "ρQ > W", *READINGS], lines, 4, caption, [])


def figure(rows: Sequence[Row]) -> Any:
    """Error against the correlation, a panel for each ratio and kind of labels."""
    labels, ratios = distinct(rows, "labels"), distinct(rows, "ratio")
    titles = [f"{kind} labels, Q/W = {ratio:g}" for kind in labels for ratio in ratios]
    drawn, axes = panels_of(titles, "test error", across=len(ratios))
    looks = panels.looks([(name,) for name in READINGS])
    for axis, cell in zip(axes, grid(labels=labels, ratio=ratios), strict=True):
        for name, look in zip(READINGS, looks, strict=True):
            found = where(rows, **cell)
            points = [(r["correlation"], *interval(r[name])) for r in found]
            panels.line(axis, points, look, name, style="--" if name == "fresh mean" else "-")
        axis.set_ylim(0, 0.55)
        axis.set_xlabel("ρ")
    return finish(drawn, EXPERIMENT.title, "bands: 95 % intervals of the mean")


EXPERIMENT = Experiment(
    "debiasing",
    "Debiasing, over the correlation of q* and w*",
    Settings(),
    {"repeats": 100},
    cells,
    run,
    table,
    figure,
)
