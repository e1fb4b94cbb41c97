"""Figures of one prompt's spectrum, and of the probe's over training."""

import pathlib
from collections.abc import Mapping
from typing import Any

from dpt_jax.analysis import figures, panels, results


def plot_spectrum(folder: pathlib.Path, found: Mapping[str, Any], title: str) -> None:
    """Draws `spectrum` (singular values, energy) and, given scores, `truncated`, PNG and PDF.

    Args:
      folder: where to.
      found: what `dpt rank --json` says of the prompt.
      title: the figures' heading.
    """
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
    panels.log_y(left)
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
        panels.level(axis, found["metrics"][task][metric], look[0])
    panels.x_values(axis, ranks, log=len(ranks) > 2)
    axis.set_xlabel("rank kept (dashed: the whole prompt)")
    axis.set_ylabel("score")
    axis.legend(fontsize=8, frameon=False)
    _save(figure, folder / "truncated", title)


def plot_probe(folder: pathlib.Path, model_dir: pathlib.Path) -> None:
    """Draws `rank` of a run of the probe: the signs of Σ and the rank over training."""
    row = {"axes": {}, "curves": results.read_curves(model_dir)}
    report: dict[str, Any] = {"title": "", "rows": [], "columns": None, "seeds": [], "names": {}}
    _save(figures.probe([row], report, {}), folder / "rank", model_dir.name)


def _save(figure: Any, path: pathlib.Path, title: str) -> None:
    figure.suptitle(title, fontsize=10)
    for suffix in (".pdf", ".png"):
        panels.save(figure, path.with_name(path.name + suffix))
