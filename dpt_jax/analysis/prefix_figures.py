"""Figures of trained prefixes by layer: the attention they get, what keys and values share."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import spread


@dataclasses.dataclass(frozen=True)
class LayerOfPrefix:
    """What is known of one layer of a trained prefix.

    Attributes:
      line: what the figures call it; the prefixes of one line are shown as their mean and range.
      stack: "encoder", "decoder" or "cross".
      layer: its number, from 1.
      length: N.
      cosine: `likeness.cosine`.
      canonical_correlation: `likeness.canonical_correlation`; None for a single token.
      mass: the share of the layer's attention that it gets, averaged over the heads; None where no
        model was asked.
    """

    line: str
    stack: str
    layer: int
    length: int
    cosine: float
    canonical_correlation: float | None
    mass: float | None


def plot_prefixes(
    folder: pathlib.Path, layers: Sequence[LayerOfPrefix], title: str
) -> Iterator[pathlib.Path]:
    """Draws `attention`, where it is known, and `likeness`, as PNG and PDF; yields each PNG."""
    if any(one.mass is not None for one in layers):
        shares = {"attention on the prefix, share": lambda one: one.mass}
        yield _save(_drawn(layers, shares, title), folder / "attention")
    alike = {
        "cosine of key and value": lambda one: one.cosine,
        "canonical correlation, squared": lambda one: one.canonical_correlation,
    }
    yield _save(_drawn(layers, alike, title), folder / "likeness")


def _drawn(
    layers: Sequence[LayerOfPrefix],
    numbers: dict[str, Callable[[LayerOfPrefix], float | None]],
    title: str,
) -> Any:
    """A row of panels for each number, a panel for each stack, a line for each `line`."""
    import matplotlib.figure

    stacks = list(dict.fromkeys(one.stack for one in layers))
    lines = list(dict.fromkeys(one.line for one in layers))
    figure = matplotlib.figure.Figure(
        figsize=(max(3.2 * len(stacks), 5.5), 2.4 * len(numbers) + 0.9), layout="constrained"
    )
    axes = figure.subplots(len(numbers), len(stacks), squeeze=False)
    for row, (label, number) in zip(axes, numbers.items(), strict=True):
        row[0].set_ylabel(label, fontsize=8)
        for axis, stack in zip(row, stacks, strict=True):
            panels.plain(axis)
            axis.set_title(stack, fontsize=10)
            axis.set_xlabel("layer")
            axis.xaxis.get_major_locator().set_params(integer=True)
            for name, look in zip(lines, panels.looks([(name,) for name in lines]), strict=True):
                at: dict[int, list[float]] = {}
                for one in layers:
                    value = number(one)
                    if (one.line, one.stack) == (name, stack) and value is not None:
                        at.setdefault(one.layer, []).append(value)
                series = [(layer, *spread(values)) for layer, values in sorted(at.items())]
                if series:
                    panels.line(axis, series, look, name)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    for suffix in (".pdf", ".png"):
        panels.save(figure, path.with_name(path.name + suffix))
    return path.with_name(path.name + ".png")
