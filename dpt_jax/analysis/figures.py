"""Figures of sweeps, from rows of `results.jsonl` alone, as PNG and PDF.

A kind of figure is a function of results, report and options that returns a matplotlib figure:
panels are the columns of the report (tasks), and where there are several their average.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dpt_jax.analysis import panels, tables
from dpt_jax.analysis.tables import Row
from dpt_jax.errors import InputError, nearest_names

# Singular values below this share of the largest are rounding in float32.
_ROUNDING = 1e-6


def score(rows: Sequence[Row], report: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The score against an axis, mean and range over seeds (Figures 4 to 8 and 10 to 14).

    Options: `x`, the axis; `lines`, the axis that gives a line each; `log`, for a logarithmic x.
    """
    x, lines = options["x"], options.get("lines")
    name = tables.namer(report)
    drawn = panels.Panels(report, rows, used=(x, lines), average=True)
    for axis, chosen, is_average in drawn:
        for key, label, look in _lines(rows, [lines] if lines else [], name):
            found = []
            for (value,) in tables.distinct(rows, [x]):
                at = [r for r in _with(chosen, lines, key) if tables.axes_of(r, [x]) == (value,)]
                cell = (tables.average_of if is_average else tables.cell_of)(at, report)
                if cell.values:
                    found.append((value, *tables.spread(cell.values)))
            if found:
                panels.line(axis, found, look, label)
        panels.x_values(axis, [v for (v,) in tables.distinct(rows, [x])], bool(options.get("log")))
        axis.set_xlabel(name(x))
    return drawn.finish(report["score"], tables.ranged(rows, report))


def loss(rows: Sequence[Row], report: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The training loss at the end against an axis, on a logarithmic scale; options as for `score`.

    Beside the score it tells what a method can fit from what it makes of few examples.
    """
    shown = "training loss at the end (nats per token)"
    figure = score(rows, {**report, "of": "train_loss", "scale": 1.0, "score": shown}, options)
    for axis in figure.axes:
        panels.log_y(axis)
    return figure


def parameters(rows: Sequence[Row], report: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The score, averaged over the columns, against the number of trained parameters (Figure 1).

    Options: `lines`, the axis whose values have a colour each.
    """
    lines = options.get("lines")
    name = tables.namer(report)
    drawn = panels.Panels({**report, "columns": None}, rows, used=report["rows"], average=False)
    [(axis, _, _)] = drawn
    drawn_at: list[int] = []
    for line, label, look in _lines(rows, [lines] if lines else [], name):
        found, notes = [], []
        for key in tables.distinct(_with(rows, lines, line), report["rows"]):
            of_row = [row for row in rows if tables.axes_of(row, report["rows"]) == key]
            cell = tables.average_of(of_row, report)
            counts = [row["trainable_parameters"] for row in of_row if row["status"] == "done"]
            if cell.values:
                found.append((max(counts), *tables.spread(cell.values)))
                rest = zip(report["rows"], key, strict=True)
                notes.append(", ".join(tables.called(a, v, name) for a, v in rest if a != lines))
        if found:
            drawn_at += [count for count, *_ in found]
            panels.line(axis, found, look, label, style="", bars=True)
            for (count, _, mean, _), text in zip(found, notes, strict=True):
                panels.note(axis, count, mean, text)
    panels.x_values(axis, panels.standing_apart(drawn_at), log=True)
    axis.set_xlabel("trained parameters")
    return drawn.finish(report["score"], tables.ranged(rows, report))


def curves(rows: Sequence[Row], report: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The score at every evaluation, mean and range over seeds.

    Options: `lines`, the axis that gives a line each; without it, every row of the table. `levels`,
    constants by name and column, such as chance, each a dashed line.
    """
    lines = [options["lines"]] if options.get("lines") else report["rows"]
    name = tables.namer(report)
    drawn = panels.Panels(report, rows, used=lines, average=False)
    for axis, chosen, _ in drawn:
        for key, label, look in _lines(rows, lines, name):
            of_line = [row for row in chosen if tables.axes_of(row, lines) == key]
            series = _mean_curve(of_line, "score", report["scale"])
            if series:
                panels.line(axis, series, look, label, marker=None)
        for label, constants in options.get("levels", {}).items():
            constant = constants[chosen[0]["axes"][report["columns"]]]
            panels.level(axis, report["scale"] * constant, panels.GREY, label)
        axis.set_xlabel("training step")
    return drawn.finish(report["score"], tables.ranged(rows, report))


def probe(rows: Sequence[Row], report: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The signs of the probe's spectrum and its rank over training (Figures 3 and 9)."""
    del options
    drawn = panels.Panels(report, rows, used=(), average=False)
    labels = {
        "positive_entries": "positive entries of Σ",
        "negative_entries": "negative entries of Σ",
        "numerical_rank": "numerical rank of U relu(Σ) V",
    }
    for axis, chosen, _ in drawn:
        looks = panels.looks([(curve,) for curve in labels])
        for (curve, label), look in zip(labels.items(), looks, strict=True):
            series = _mean_curve(chosen, curve, 1.0)
            if series:
                style = "--" if curve == "numerical_rank" else "-"
                panels.line(axis, series, look, label, marker=None, style=style)
        axis.set_ylim(bottom=0)
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("training step")
    return drawn.finish("number of entries", tables.ranged(rows, report))


def spectra(rows: Sequence[Row], report: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The singular values of the best prompts, as shares of the largest.

    Options: `lines`, the axis that gives a line each; without it, every row of the table.
    """
    lines = [options["lines"]] if options.get("lines") else report["rows"]
    name = tables.namer(report)
    drawn = panels.Panels(report, rows, used=lines, average=False)
    for axis, chosen, _ in drawn:
        for key, label, look in _lines(rows, lines, name):
            found = [
                [value / row["singular_values"][0] for value in row["singular_values"]]
                for row in chosen
                if tables.axes_of(row, lines) == key and (row.get("singular_values") or [0])[0]
            ]
            columns = [tables.spread(at) for at in zip(*found, strict=False)]
            series = [(n, *at) for n, at in enumerate(columns, 1) if at[0] > _ROUNDING]
            if series:
                panels.line(axis, series, look, label, marker=".")
        panels.log_y(axis)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("direction")
    return drawn.finish("singular value, share of the largest", tables.ranged(rows, report))


KINDS: dict[str, Callable[..., Any]] = {
    "score": score,
    "loss": loss,
    "parameters": parameters,
    "curves": curves,
    "rank": probe,
    "spectra": spectra,
}
_OPTIONS = {"score": {"x", "lines", "log"}, "loss": {"x", "lines", "log"}, "rank": set()}


def options_of(kind: str) -> set[str]:
    """The options that a kind of figure takes."""
    return _OPTIONS.get(kind, {"lines"})


def check(report: Mapping[str, Any], axes: Sequence[str]) -> None:
    """Checks the figures that a report asks for.

    Raises:
      InputError: for a kind, an option or an axis that does not exist.
    """
    for kind, options in report["figures"].items():
        if kind not in KINDS:
            raise InputError(
                f"There is no figure {kind!r}; there are {', '.join(KINDS)}."
                f"{nearest_names(kind, KINDS)} Change sweeps.Report.figures."
            )
        known = options_of(kind)
        if unknown := set(options) - known:
            raise InputError(
                f"The figure {kind!r} has the options {', '.join(sorted(unknown))}; it takes "
                f"{', '.join(sorted(known)) or 'none'}. Change sweeps.Report.figures."
            )
        if "x" in known and "x" not in options:
            raise InputError(f"The figure {kind!r} needs its axis, as in {{'x': 'BOTTLENECK'}}.")
        for option in ("x", "lines"):
            if options.get(option, axes[0]) not in axes:
                raise InputError(
                    f"The figure {kind!r} has {option} = {options[option]!r}; the sweep has the "
                    f"axes {', '.join(axes)}. Change sweeps.Report.figures."
                )


def write_all(
    folder: pathlib.Path, rows: Sequence[Row], report: Mapping[str, Any]
) -> Iterator[pathlib.Path]:
    """Draws the report's figures into a folder as PNG and PDF; yields the path of each PNG.

    A figure for which there is nothing yet is left out.
    """
    done = [row for row in rows if row["status"] == "done" and row["value"] is not None]
    if not done:
        return
    for kind, options in report["figures"].items():
        figure = KINDS[kind](done, report, options)
        for suffix in (".pdf", ".png"):
            panels.save(figure, folder / f"{kind}{suffix}")
        yield folder / f"{kind}.png"


def _lines(
    rows: Sequence[Row], axes: Sequence[str], name: Callable[[Any], str]
) -> list[tuple[tuple, str | None, panels.Look]]:
    """The values on the axes that have a line each, the line's label, and its look."""
    keys = tables.distinct(rows, axes)
    made = []
    for key, look in zip(keys, panels.looks(keys), strict=True):
        text = ", ".join(tables.called(axis, v, name) for axis, v in zip(axes, key, strict=True))
        made.append((key, text or None, look))
    return made


def _with(rows: Sequence[Row], axis: str | None, key: tuple) -> list[Row]:
    return [row for row in rows if axis is None or tables.axes_of(row, [axis]) == key]


def _mean_curve(
    rows: Sequence[Row], name: str, scale: float
) -> list[tuple[float, float, float, float]]:
    """Step, and smallest, mean and largest value over the runs, at the steps that all have."""
    found = [
        dict(zip(*row["curves"][name], strict=True))
        for row in rows
        if name in (row.get("curves") or {})
    ]
    if not found:
        return []
    steps = sorted(set.intersection(*map(set, found)))
    return [(s, *tables.spread([scale * curve[s] for curve in found])) for s in steps]
