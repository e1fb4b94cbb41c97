"""How the figures of experiments look: panels in rows, one legend."""

from collections.abc import Sequence
from typing import Any

from dpt_jax.analysis import panels


def panels_of(titles: Sequence[str], ylabel: str, across: int = 0) -> tuple[Any, list[Any]]:
    """A figure with a panel for each title.

    Args:
      titles: of the panels.
      ylabel: what all of them show.
      across: how many stand side by side; 0 is all.
    """
    import matplotlib.figure

    across = across or len(titles)
    down = -(-len(titles) // across)
    figure = matplotlib.figure.Figure(
        figsize=(3.0 * across + 0.5, 2.6 * down + 0.9), layout="constrained"
    )
    axes = list(figure.subplots(down, across, squeeze=False).ravel())
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=10)
        panels.plain(axis)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    figure.supylabel(ylabel, fontsize=9)
    return figure, axes


def finish(figure: Any, title: str, caption: str) -> Any:
    """Adds the title, a legend of all panels and a caption; returns the figure."""
    figure.supxlabel(caption, fontsize=8, color=panels.GREY)
    entries: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    # The title is the legend's, since constrained layout would put both in one place.
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=min(len(entries), 5),
        frameon=False,
        fontsize=8,
        title=title,
        title_fontsize=11,
    )
    return figure
