"""What an experiment is, and how it is run: cell by cell into a results file, which it continues.

A cell is one point of the experiment's grid. Its result is one line of `results.jsonl`, with the
values of every repeat as lists. Table and figure are made from these lines alone.
"""

import ast
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import Table
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.files import json_dumps, json_ready, write_json, write_text
from dpt_jax.locks import locked
from dpt_jax.progress import Progress

RESULTS, SETTINGS, TABLE, FIGURE = "results.jsonl", "settings.json", "table.md", "figure"

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment that can fail.

    Attributes:
      name: what `dpt theory` calls it.
      title: the heading of its figure.
      settings: a frozen dataclass, with sizes for two cores as defaults; it has a `seed`.
      full: the fields that are larger with `--full`.
      cells: the grid, from the settings: what tells a cell from the others.
      run: measures a cell; what it returns JSON can hold.
      table: of all rows.
      figure: of all rows, a matplotlib figure.
      precise: whether it is computed in float64.
    """

    name: str
    title: str
    settings: Any
    full: Mapping[str, Any]
    cells: Callable[[Any], list[dict[str, Any]]]
    run: Callable[[Any, dict[str, Any]], dict[str, Any]]
    table: Callable[[Sequence[Row]], Table]
    figure: Callable[[Sequence[Row]], Any]
    precise: bool = False

    def make_settings(self, full: bool, changes: Sequence[str]) -> Any:
        """The settings, with changes such as "repeats=5".

        Raises:
          InputError: for a setting that there is not, or a value that is not of its kind.
        """
        settings = dataclasses.replace(self.settings, **(self.full if full else {}))
        known = dataclasses.asdict(settings)
        values = {}
        for change in changes:
            name, equals, text = change.partition("=")
            if not equals or name not in known:
                raise InputError(
                    f"--set is {change!r}; {self.name} has {', '.join(known)}, as in --set "
                    f"seed=1.{nearest_names(name, known)}"
                )
            values[name] = _value(name, text, known[name])
        return dataclasses.replace(settings, **values)


def _value(name: str, text: str, example: Any) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(example, tuple) and not isinstance(value, tuple):
        value = (value,)
    if isinstance(example, float) and type(value) is int:
        value = float(value)
    # A number may be of either kind inside a tuple.
    if type(value) is not type(example):
        raise InputError(
            f"--set {name}={text} is no {type(example).__name__}; the default is {example!r}."
        )
    return value


def run(
    experiment: Experiment,
    settings: Any,
    folder: pathlib.Path,
    tell: Callable[[str], object] | None = None,
) -> Table:
    """Runs what is missing of an experiment, and writes its table and figure.

    Args:
      experiment: which.
      settings: its settings.
      folder: where `results.jsonl`, `settings.json`, `table.md` and the figure go.
      tell: is told where the figure is.

    Raises:
      InputError: when the folder has results of other settings.
    """
    cells = json_ready(experiment.cells(settings))
    with locked(folder / ".lock", "--output", f"{folder} is being written by another process"):
        _check_settings(experiment, settings, folder)
        rows = _read(folder / RESULTS, cells)
        progress = Progress(experiment.name, len(rows), unit="cells")
        try:
            for number, cell in enumerate(cells[len(rows) :], len(rows)):
                progress.update(number, len(cells), _said(cell))
                with jax.enable_x64(experiment.precise):
                    row = json_ready(cell | experiment.run(settings, cell))
                _append(folder / RESULTS, row)
                rows.append(row)
            progress.update(len(cells), len(cells))
        finally:
            progress.close()
        table = experiment.table(rows)
        write_text(folder / TABLE, table.markdown())
        figure = experiment.figure(rows)
        for suffix in (".pdf", ".png"):
            panels.save(figure, folder / f"{FIGURE}{suffix}")
    if tell is not None:
        tell(str(folder / f"{FIGURE}.png"))
    return table


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _said(cell: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in cell.items())


def _check_settings(experiment: Experiment, settings: Any, folder: pathlib.Path) -> None:
    wanted = json_ready({"experiment": experiment.name, **dataclasses.asdict(settings)})
    path = folder / SETTINGS
    if path.exists() and (folder / RESULTS).exists():
        found = json.loads(path.read_text())
        changed = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if changed:
            name = changed[0]
            raise InputError(
                f"{folder} has results with {name} = {found.get(name)}, and {wanted.get(name)} is "
                "asked for. Give another --output, or delete the folder."
            )
    write_json(path, wanted)


def _read(path: pathlib.Path, cells: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows that are there, the first of the cells; a line that a kill cut short is removed."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    rows = [json.loads(line) for line in whole.splitlines()]
    for cell, row in zip(cells, rows, strict=False):
        if any(row.get(name) != value for name, value in cell.items()):
            raise InputError(
                f"{path} has a result of another grid: {_said(row)[:200]}. Delete the folder."
            )
    if len(rows) > len(cells):
        raise InputError(f"{path} has {len(rows)} results for {len(cells)} cells. Delete it.")
    if whole != text:
        write_text(path, whole)
    return rows


def _append(path: pathlib.Path, row: Row) -> None:
    with open(path, "a") as file:
        file.write(json_dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def grid(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination of some values by name, the last name changing first."""
    cells: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        cells = [{**cell, name: value} for cell in cells for value in list(values)]
    return cells


def where(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows with some values."""
    return [row for row in rows if all(row.get(n) == v for n, v in values.items())]


def distinct(rows: Iterable[Row], name: str) -> list[Any]:
    """The values of a name, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))
