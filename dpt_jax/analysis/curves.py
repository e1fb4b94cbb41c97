"""Learning curves of runs, from their `metrics.jsonl`, as numbers and as a picture."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence

from dpt_jax.files import atomic_write
from dpt_jax.run_files import METRICS

Curve = tuple[list[int], list[float]]


def read_curve(model_dir: str | pathlib.Path, split: str, metric: str, task: str | None) -> Curve:
    """The steps and values of one metric in a run's `metrics.jsonl`.

    Args:
      model_dir: the run's folder.
      split: `train` or the evaluated split's name.
      metric: the metric's name, such as `loss` or `accuracy`.
      task: the task; None for what belongs to no task, such as the training loss.
    """
    steps, values = [], []
    for line in (pathlib.Path(model_dir) / METRICS).read_text().splitlines():
        row = json.loads(line)
        if row["split"] == split and row["task"] == task and metric in row:
            steps.append(row["step"])
            # A metric that was not a number is null there.
            values.append(math.nan if row[metric] is None else row[metric])
    return steps, values


def plot_curves(
    path: str | pathlib.Path,
    curves: Mapping[str, Mapping[str, Curve]],
    *,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    ylabel: str = "validation accuracy",
    labels: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    caption: str = "",
) -> None:
    """Draws a panel a task with a line a method, and writes it as PNG (or what `path` ends in).

    Args:
      path: the picture to write.
      curves: task, then method, to the curve.
      levels: task, then name, to a constant drawn as a dashed line, such as chance.
      ylabel: what the values are.
      labels: method to the text of its line in the legend.
      titles: task to the title of its panel.
      caption: one line under the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels, titles, levels = labels or {}, titles or {}, levels or {}
    methods: Sequence[str] = list(dict.fromkeys(m for lines in curves.values() for m in lines))
    palette = plt.get_cmap("tab10").colors
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.0 * len(curves), 3.6), sharey=True, squeeze=False
    )
    for axis, (task, lines) in zip(axes[0], curves.items(), strict=True):
        for name, level in levels.get(task, {}).items():
            axis.axhline(
                level, color="0.55", linestyle="--", linewidth=1, label=labels.get(name, name)
            )
        for method, (steps, values) in lines.items():
            axis.plot(
                steps,
                values,
                marker="o",
                markersize=3,
                color=palette[methods.index(method) % len(palette)],
                label=labels.get(method, method),
            )
        axis.set_title(titles.get(task, task), fontsize=11)
        axis.set_xlabel("training step")
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(ylabel)
    handles, names = axes[0][0].get_legend_handles_labels()
    # Methods first, reference levels after them.
    order = sorted(range(len(names)), key=lambda i: handles[i].get_linestyle() == "--")
    figure.legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        loc="upper center",
        ncols=len(names),
        frameon=False,
    )
    if caption:
        figure.text(0.5, 0.01, caption, ha="center", fontsize=8, color="0.35")
    figure.tight_layout(rect=(0, 0.04, 1, 0.9))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
