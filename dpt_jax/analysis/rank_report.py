"""The rank of one prompt, and of the probe, as numbers, as a table and as figures."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from dpt_jax.analysis import figures, panels, results
from dpt_jax.analysis.spectrum import spectrum
from dpt_jax.analysis.truncation import Truncation, energy_curve
from dpt_jax.files import atomic_write

Scores = Mapping[str, Mapping[str, float]]


def measured(
    prompt: Float[np.ndarray, "length embed"],
    cut: Sequence[Truncation],
    scores: Sequence[Scores] = (),
) -> dict[str, Any]:
    """What `dpt rank` says of a prompt, ready for JSON.

    Args:
      prompt: the prompt.
      cut: its approximations.
      scores: metrics by task, of the prompt and then of each approximation; empty where there is
        no task.
    """
    of = spectrum(prompt)
    rows: list[dict[str, Any]] = [
        {"rank": one.rank, "energy": one.energy, "error": one.error} for one in cut
    ]
    for row, metrics in zip(rows, scores[1:], strict=bool(scores)):
        row["metrics"] = metrics
    return {
        "length": of.length,
        "width": of.width,
        **of.summary(),
        "energy_curve": energy_curve(of).tolist(),
        "truncated": rows,
        **({"metrics": scores[0]} if scores else {}),
    }


def print_table(name: str, found: Mapping[str, Any]) -> None:
    """Prints a prompt's numbers, and a line a rank."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)
    console.print(
        f"{name}: {found['length']} tokens, {found['width']} wide; effective rank "
        f"{found['effective_rank']:.2f}, numerical rank {found['numerical_rank']}",
        markup=False,
        soft_wrap=True,
    )
    columns = [(task, metric) for task, of in found.get("metrics", {}).items() for metric in of]
    table = Table(box=box.SIMPLE, padding=(0, 2, 0, 0))
    for title in ("rank", "energy", "error"):
        table.add_column(title, justify="right")
    for task, metric in columns:
        table.add_column(f"{task} {metric}", justify="right")

    def add(rank: str, energy: float, error: float, metrics: Scores) -> None:
        scores = [f"{metrics[task][metric]:.4f}" for task, metric in columns]
        table.add_row(rank, f"{energy:.4f}", f"{error:.4f}", *scores)

    for row in found["truncated"]:
        add(str(row["rank"]), row["energy"], row["error"], row.get("metrics", {}))
    add("uncut", 1.0, 0.0, found.get("metrics", {}))
    console.print(table)
    console.print(
        "energy: share of the squared singular values that are kept; error: Frobenius norm of what "
        "is missed, as a share of the prompt's.",
        soft_wrap=True,
    )


def plot(folder: pathlib.Path, found: Mapping[str, Any], title: str) -> None:
    """Draws `spectrum` (singular values, energy) and, given scores, `truncated`, PNG and PDF."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    values = [v for v in found["singular_values"] if v > found["singular_values"][0] * 1e-7]
    directions = range(1, len(values) + 1)
    for axis, series, label in (
        (left, values, "singular value"),
        (right, found["energy_curve"][: len(values)], "energy of the first directions"),
    ):
        panels.plain(axis)
        points = [(n, value, value, value) for n, value in zip(directions, series, strict=True)]
        panels.line(axis, points, panels.looks([(0,)])[0], marker=".")
        axis.set_xlabel("direction")
        axis.set_ylabel(label)
    left.set_yscale("log")
    right.set_ylim(0, 1.02)
    _save(figure, folder / "spectrum", title)
    if "metrics" not in found:
        return
    figure = matplotlib.figure.Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    panels.plain(axis)
    ranks = [row["rank"] for row in found["truncated"]]
    names = [(task, metric) for task, of in found["metrics"].items() for metric in of]
    for (task, metric), look in zip(names, panels.looks(names), strict=True):
        scores = [row["metrics"][task][metric] for row in found["truncated"]]
        points = [(rank, score, score, score) for rank, score in zip(ranks, scores, strict=True)]
        panels.line(axis, points, look, f"{task} {metric}")
        panels.level(axis, found["metrics"][task][metric], look)
    panels.x_values(axis, ranks, log=len(ranks) > 2)
    axis.set_xlabel("rank kept (dashed: the whole prompt)")
    axis.set_ylabel("score")
    axis.legend(fontsize=8, frameon=False)
    _save(figure, folder / "truncated", title)


def plot_probe(folder: pathlib.Path, model_dir: pathlib.Path) -> None:
    """Draws `rank` of a run of the probe: the signs of Σ and the rank over training."""
    row = {"axes": {}, "curves": results.read_curves(model_dir)}
    report: dict[str, Any] = {"title": "", "rows": [], "columns": None, "seeds": [], "names": {}}
    _save(figures.rank([row], report, {}), folder / "rank", model_dir.name)


def _save(figure: Any, path: pathlib.Path, title: str) -> None:
    figure.suptitle(title, fontsize=10)
    for suffix in (".pdf", ".png"):
        with atomic_write(path.with_name(path.name + suffix)) as temporary:
            figure.savefig(temporary, dpi=150)
