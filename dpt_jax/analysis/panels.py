"""How figures look: panels side by side, lines with their range, one legend and one caption."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpt_jax.analysis import tables
from dpt_jax.analysis.tables import Row
from dpt_jax.files import atomic_write

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers do it without colour.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "os^Dv<>P"
# Methods look the same in every figure.
_METHODS = ("PT", "Res PT", "DPT", "fine-tuning")
_MOST_IN_A_ROW = 5
GREY = "0.35"


class Panels:
    """A grid of axes: one per column of the report, for each value of the axes not shown else."""

    def __init__(
        self,
        report: Mapping[str, Any],
        rows: Sequence[Row],
        used: Sequence[str | None],
        average: bool,
    ):
        """Lays the panels out.

        Args:
          report: the sweep's report.
          rows: its results.
          used: axes that are shown inside a panel.
          average: whether there is a panel for the average over the columns, where there are
            several.
        """
        import matplotlib.figure

        name = tables.namer(report)
        column = report["columns"]
        facets = [axis for axis in report["rows"] if axis not in used]
        self._plan: list[tuple[str, list[Row], bool]] = []
        facet_values = tables.distinct(rows, facets)
        for facet in facet_values:
            inside = [row for row in rows if tables.axes_of(row, facets) == facet]
            prefix = ", ".join(
                tables.called(axis, value, name) for axis, value in zip(facets, facet, strict=True)
            )
            columns = tables.distinct(inside, [column]) if column else [()]
            for key in columns:
                chosen = [r for r in inside if not column or tables.axes_of(r, [column]) == key]
                title = [prefix, *(tables.called(column, value, name) for value in key)]
                self._plan.append((", ".join(filter(None, title)), chosen, False))
            if average and len(columns) > 1:
                self._plan.append((", ".join(filter(None, [prefix, "average"])), inside, True))
        across = _across(len(self._plan), len(self._plan) // max(len(facet_values), 1))
        down = -(-len(self._plan) // across)
        self._figure = matplotlib.figure.Figure(
            figsize=(max(2.7 * across, 5.0) + 0.4, 2.5 * down + 1.0), layout="constrained"
        )
        self._axes = self._figure.subplots(down, across, squeeze=False)
        self._title = report["title"]

    def __iter__(self) -> Iterator[tuple[Any, list[Row], bool]]:
        """Yields each panel's axes, its results, and whether it is the average."""
        axes = self._axes.ravel()
        for axis, (title, chosen, is_average) in zip(axes, self._plan, strict=False):
            axis.set_title(title, fontsize=10)
            plain(axis)
            yield axis, chosen, is_average
        for axis in axes[len(self._plan) :]:
            axis.set_visible(False)

    def finish(self, ylabel: str, caption: str) -> Any:
        """Adds what belongs to all panels, and returns the figure."""
        figure = self._figure
        figure.supylabel(ylabel, fontsize=9)
        figure.supxlabel(caption, fontsize=8, color=GREY)
        # A line may be missing in one panel, so the legend is of all.
        entries: dict[str, Any] = {}
        for axis in self._axes.ravel():
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        if entries:
            # The title is the legend's, since constrained layout would put both in one place.
            for lines in range(-(-len(entries) // 5), len(entries) + 1):
                columns = -(-len(entries) // lines)
                legend = figure.legend(
                    entries.values(),
                    entries.keys(),
                    loc="outside upper center",
                    ncols=columns,
                    frameon=False,
                    fontsize=8,
                    title=self._title,
                    title_fontsize=11,
                )
                if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
                    break
                legend.remove()  # Wider than the figure.
        else:
            figure.suptitle(self._title, fontsize=11)
        return figure


def _across(count: int, each: int) -> int:
    """How many panels stand side by side, of `count` with `each` of them belonging together."""
    if each < count and each <= _MOST_IN_A_ROW:
        return each
    if count <= _MOST_IN_A_ROW:
        return count
    # The fewest empty places, and of equals the wider.
    return min((5, 4, 3), key=lambda n: (-count % n, -n))


Look = tuple[Any, str]


def looks(keys: Sequence[tuple]) -> list[Look]:
    """A colour and a marker per line: methods have their own, numbers go from dark to light."""
    import matplotlib

    values = [key[0] if len(key) == 1 else None for key in keys]
    if all(value in _METHODS for value in values):
        numbers = [_METHODS.index(str(value)) for value in values]
    else:
        numbers = list(range(len(keys)))
    markers = [_MARKERS[i % len(_MARKERS)] for i in numbers]
    if len(keys) > 2 and all(isinstance(value, int | float) for value in values):
        shades = matplotlib.colormaps["viridis"]
        return [(shades(0.9 * i / (len(keys) - 1)), markers[i]) for i in numbers]
    return [(_COLORS[i % len(_COLORS)], m) for i, m in zip(numbers, markers, strict=True)]


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a figure in the form that the path's suffix names, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def plain(axis: Any) -> None:
    """Gives a panel its looks."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def level(axis: Any, value: float, color: Any, label: str | None = None) -> None:
    """Draws a constant as a dashed line."""
    axis.axhline(value, color=color, linestyle="--", linewidth=0.9, label=label)


def line(
    axis: Any,
    series: Sequence[tuple[Any, float, float, float]],
    look: Look,
    label: str | None = None,
    *,
    marker: str | None = "",
    style: str = "-",
    bars: bool = False,
) -> None:
    """Draws means as a line with the range of the seeds around it.

    Args:
      axis: the panel.
      series: position, smallest value, mean and largest value of each point; positions that are
        texts are put side by side.
      look: the line's colour and marker.
      label: its text in the legend.
      marker: "" takes that of `look`, None draws none.
      style: of the line; "" leaves it out.
      bars: shows the range as bars instead of a band.
    """
    color, own = look
    shape = own if marker == "" else marker
    drawn = {"color": color, "marker": shape, "markersize": 4, "linewidth": 1.4, "linestyle": style}
    x: list[Any]
    x, low, mean, high = (list(column) for column in zip(*series, strict=True))
    if not isinstance(x[0], int | float):
        x = [str(value) for value in x]
    if bars:
        below = [m - v for m, v in zip(mean, low, strict=True)]
        above = [v - m for m, v in zip(mean, high, strict=True)]
        axis.errorbar(x, mean, (below, above), label=label, capsize=2, elinewidth=0.8, **drawn)
    else:
        axis.plot(x, mean, label=label, **drawn)
        axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def x_values(axis: Any, values: Sequence[Any], log: bool) -> None:
    """Puts ticks where the values are."""
    if not all(isinstance(value, int | float) for value in values):
        return
    if log:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(values, [f"{value:g}" if value < 10_000 else f"{value:,}" for value in values])


def log_y(axis: Any) -> None:
    """Makes the y axis logarithmic; call it last. Less than a decade has plain numbers at it."""
    from matplotlib import ticker

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high < 10 * low:
        axis.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.yaxis.set_minor_locator(ticker.NullLocator())


def standing_apart(values: Sequence[float], share: float = 0.15) -> list[float]:
    """Of positive numbers those whose labels have room on a logarithmic axis, ascending.

    Args:
      values: the numbers, which the axis spans.
      share: how much of the axis is between two labels, at least.
    """
    found: list[float] = []
    for value in sorted(values):
        if not found or value / found[-1] >= (max(values) / min(values)) ** share > 1:
            found.append(value)
    return found


def note(axis: Any, x: float, y: float, text: str) -> None:
    """Writes a small text beside a point."""
    axis.annotate(text, (x, y), (6, -3), textcoords="offset points", fontsize=7, color=GREY)
