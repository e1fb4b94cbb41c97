"""How the results of a sweep are shown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dpt_jax.errors import InputError, nearest_names

# Axes that a report averages over when it is not told which.
_SEED_AXES = ("seed", "RANDOM_SEED")


_COLUMN_AXES = ("task", "MIXTURE_OR_TASK_NAME")


@dataclasses.dataclass(frozen=True)
class Report:
    """How the results of a sweep are shown; bound through gin as `sweeps.Report`.

    Attributes:
      title: the heading of the table and of the figures.
      score: what the numbers are, as in "accuracy on validation, %".
      scale: what a run's `best_value` is multiplied by; 100 where a metric is a share of 1.
      rows: axes that make the table's rows; None is every axis that is no column and no seed.
      columns: the axis that makes its columns; None is `task` or `MIXTURE_OR_TASK_NAME`, where the
        sweep has one of them.
      seeds: axes whose points are averaged; None is `seed` and `RANDOM_SEED`, where there are any.
      implied: axes whose values follow from those of others, as a learning rate that was chosen for
        each method; they are not shown.
      metric: the metric of learning curves; None is each task's first.
      names: what to call an axis or a value, by its own name.
      figures: the figures to draw, by kind (`dpt_jax.analysis.figures.KINDS`), with the options of
        each.
      claims: what the paper says, in terms of the results (`dpt_jax.analysis.claims`).
    """

    title: str = ""
    score: str = "score"
    scale: float = 1.0
    rows: Sequence[str] | None = None
    columns: str | None = None
    seeds: Sequence[str] | None = None
    implied: Sequence[str] = ()
    metric: str | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    claims: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self):
        if not isinstance(self.scale, int | float):
            raise InputError(f"sweeps.Report.scale is {self.scale!r}; it takes a number, as 100.")

    def resolved(self, axes: Sequence[str]) -> "Report":
        """The report of a sweep with these axes, its rows, columns and seeds filled in.

        Raises:
          InputError: when it names an axis that the sweep does not have.
        """
        seeds = self.seeds
        if seeds is None:
            seeds = [axis for axis in axes if axis in _SEED_AXES]
        columns = self.columns
        if columns is None:
            columns = next((axis for axis in _COLUMN_AXES if axis in axes), None)
        rows = self.rows
        if rows is None:
            shown = {columns, *seeds, *self.implied}
            rows = [axis for axis in axes if axis not in shown]
        for axis in [*rows, *seeds, *self.implied, *([columns] if columns else [])]:
            if axis not in axes:
                raise InputError(
                    f"Report names the axis {axis!r}; the sweep has {', '.join(axes)}."
                    f"{nearest_names(axis, axes)} Change sweeps.Report in the sweep's gin file."
                )
        left = [axis for axis in axes if axis not in {*rows, *seeds, *self.implied, columns}]
        if left:
            raise InputError(
                f"Report shows neither as rows, columns nor seeds: {', '.join(left)}. Points that "
                "differ in these would share a cell; name them in sweeps.Report.rows."
            )
        return dataclasses.replace(self, rows=list(rows), columns=columns, seeds=list(seeds))
