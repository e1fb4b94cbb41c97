"""Tables of sweeps in the paper's layout: a row per method, a column per task, mean ± deviation.

From rows of `results.jsonl` alone.
"""

import dataclasses
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

AVERAGE, PARAMETERS = "Avg.", "parameters"


@dataclasses.dataclass(frozen=True)
class Cell:
    """The score of some runs that differ in their seed alone.

    Attributes:
      values: the scores of the runs that are done, scaled as they are shown.
      points: how many runs there are to be.
      failed: how many of them failed.
    """

    values: tuple[float, ...] = ()
    points: int = 0
    failed: int = 0

    @property
    def mean(self) -> float | None:
        """Mean of the scores; None where there is none."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, dividing by n - 1; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if not self.values:
            return "failed" if self.failed else "–"
        text = f"{self.mean:.2f}"
        if self.deviation is not None:
            text += f" ± {self.deviation:.2f}"
        if len(self.values) < self.points:
            text += f" ({len(self.values)} of {self.points})"
        return text


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
      header: titles of the columns.
      rows: the cells of each row, as many as there are titles.
      labels: how many columns at the left are names and not numbers.
      caption: what the numbers are.
      notes: what to say of points that failed or are missing.
    """

    header: list[str]
    rows: list[list[str]]
    labels: int
    caption: str
    notes: list[str]

    def markdown(self) -> str:
        """The table in Markdown, with caption and notes."""
        aligned = ["---"] * self.labels + ["---:"] * (len(self.header) - self.labels)
        lines = [
            "| " + " | ".join(map(as_markdown, cells)) + " |" for cells in (self.header, *self.rows)
        ]
        lines.insert(1, "| " + " | ".join(aligned) + " |")
        notes = [f"- {as_markdown(note)}" for note in self.notes]
        below = ["", as_markdown(self.caption), *([""] + notes if notes else [])]
        return "\n".join([*lines, *below]) + "\n"


def as_markdown(text: str) -> str:
    """A text in which Markdown finds nothing to mark up."""
    # `_` marks up only at the ends of words, and `&` only before the name of a character.
    return re.sub(r"[\\`*~\[\]<|]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)", r"\\\g<0>", text)


def value_of(row: Row, report: Mapping[str, Any]) -> float | None:
    """The score of a result, scaled as it is shown; None where it is not done or undefined.

    `report` may name another number of the results as its `of`, such as `train_loss`.
    """
    value = row.get(report.get("of", "value"))
    if row["status"] != "done" or value is None:
        return None
    return value * report["scale"]


def cell_of(rows: Sequence[Row], report: Mapping[str, Any]) -> Cell:
    """The cell of results that differ in their seed alone."""
    values = [value_of(row, report) for row in rows]
    return Cell(
        tuple(value for value in values if value is not None),
        len(rows),
        sum(row["status"] == "failed" for row in rows),
    )


def averages_of(rows: Sequence[Row], report: Mapping[str, Any]) -> dict[tuple, float]:
    """The average over all else for each seed of which every run is done, by the seed."""
    seeds: dict[tuple, list[Row]] = {}
    for row in rows:
        seeds.setdefault(axes_of(row, report["seeds"]), []).append(row)
    averages = {}
    for seed, of_seed in seeds.items():
        values = [value_of(row, report) for row in of_seed]
        known = [value for value in values if value is not None]
        if len(known) == len(of_seed):
            averages[seed] = statistics.fmean(known)
    return averages


def average_of(rows: Sequence[Row], report: Mapping[str, Any]) -> Cell:
    """The cell of `averages_of`."""
    failed = {axes_of(row, report["seeds"]) for row in rows if row["status"] == "failed"}
    seeds = distinct(rows, report["seeds"])
    return Cell(tuple(averages_of(rows, report).values()), len(seeds), len(failed))


def axes_of(row: Row, axes: Sequence[str]) -> tuple:
    """A result's values on some axes, as something that can be compared and looked up."""
    values = (row["axes"][axis] for axis in axes)
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def distinct(rows: Sequence[Row], axes: Sequence[str]) -> list[tuple]:
    """The combinations of values on some axes, in the order of the results."""
    return list(dict.fromkeys(axes_of(row, axes) for row in rows))


def namer(report: Mapping[str, Any]) -> Callable[[Any], str]:
    """What an axis or a value is called in a report."""
    return lambda value: str(report["names"].get(str(value), value))


def called(axis: str, value: Any, name: Callable[[Any], str]) -> str:
    """A value as it is called; a number alone would not say what it is."""
    if isinstance(value, int | float) and str(value) == name(value):
        return f"{name(axis)} = {value:,}"
    return name(value)


def table(rows: Sequence[Row], report: Mapping[str, Any]) -> Table:
    """The table of a sweep.

    Args:
      rows: its results.
      report: its `Report` as a mapping, with rows, columns and seeds resolved.
    """
    name = namer(report)
    columns = distinct(rows, [report["columns"]]) if report["columns"] else []
    header = [*map(name, report["rows"]), PARAMETERS]
    header += [name(column) for (column,) in columns] if columns else [report["score"]]
    by_key = {
        key: [row for row in rows if axes_of(row, report["rows"]) == key]
        for key in distinct(rows, report["rows"])
    }
    # Runs that are shown together may have a task each: there is no average over those.
    whole = {
        key
        for key, of_row in by_key.items()
        if len(columns) > 1 and len(distinct(of_row, [report["columns"]])) == len(columns)
    }
    if whole:
        header.append(AVERAGE)
    lines = []
    for key, of_row in by_key.items():
        cells = [*map(name, key), _parameters(of_row)]
        for column in columns or [()]:
            of_cell = [
                row for row in of_row if not columns or axes_of(row, [report["columns"]]) == column
            ]
            cells.append(str(cell_of(of_cell, report)))
        if whole:
            cells.append(str(average_of(of_row, report) if key in whole else Cell()))
        lines.append(cells)
    return Table(header, lines, len(report["rows"]), caption(rows, report), _notes(rows))


def caption(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    """What the numbers are, and over how many seeds."""
    seeds = len(distinct(rows, report["seeds"])) if report["seeds"] else 1
    if seeds == 1:
        return f"{report['score']}; best evaluation, one seed."
    return (
        f"{report['score']}; best evaluation, mean ± standard deviation (n − 1) over {seeds} seeds."
    )


def ranged(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    """The caption of a figure whose lines are means within the range of the seeds."""
    seeds = len(distinct(rows, report["seeds"])) if report["seeds"] else 1
    if seeds == 1:
        return "one seed"
    return f"line or point: mean over {seeds} seeds; band or bar: smallest to largest of them"


def _parameters(rows: Sequence[Row]) -> str:
    counts = sorted({row["trainable_parameters"] for row in rows if row["status"] == "done"})
    if not counts:
        return "–"
    return f"{counts[0]:,}" + (f" – {counts[-1]:,}" if len(counts) > 1 else "")


def _notes(rows: Sequence[Row]) -> list[str]:
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] == "failed":
            failed.setdefault(shortened(row["error"]), []).append(row["point"])
    notes = []
    for error, (first, *others) in failed.items():
        more = f" and {len(others)} more" if others else ""
        notes.append(f"{first}{more} failed: {error}")
    for status in ("unfinished", "not run"):
        count = sum(row["status"] == status for row in rows)
        if count:
            notes.append(f"{count} of {len(rows)} points: {status}.")
    undefined = [row["point"] for row in rows if row["status"] == "done" and row["value"] is None]
    if undefined:
        notes.append(f"Without a score, since the metric is not a number: {', '.join(undefined)}.")
    return notes


def shortened(text: str, length: int = 300) -> str:
    """The first line of a message, cut where it is long."""
    first = (text.strip().splitlines() or [""])[0]
    return first if len(first) <= length else first[: length - 1] + "…"


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Smallest, mean and largest of one or more numbers."""
    return min(values), math.fsum(values) / len(values), max(values)
