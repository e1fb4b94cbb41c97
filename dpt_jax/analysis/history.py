"""What a run's log says of its training, as numbers and as a picture."""

import dataclasses
import functools
import io
import os
from collections.abc import Mapping
from typing import Any

from dpt_jax import run_files
from dpt_jax.analysis import panels


@dataclasses.dataclass(frozen=True)
class History:
    """The training of a run, from its first step.

    Example::

        history = t5.fit(pairs, eval_pairs=held_out)
        history.metrics[history.best_step]["exact_match"]
        history.plot().savefig("history.png")

    Attributes:
      losses: by step, the mean loss of a target token in nats since the line before.
      metrics: by step, what the evaluation after it measured, by name.
      best_step: the step whose prompt is kept; None where nothing was evaluated.
      best_value: the number by which it was chosen.
      last_step: updates made.
      seconds: that the training took, evaluations included.
    """

    losses: Mapping[int, float]
    metrics: Mapping[int, Mapping[str, float]]
    best_step: int | None
    best_value: float | None
    last_step: int
    seconds: float

    def plot(self) -> Any:
        """Draws the loss and, where there were evaluations, every metric over the steps.

        Returns:
          A matplotlib `Figure`; its `savefig` writes a file, and a notebook shows it, whether or
          not pyplot is in use there.
        """
        import matplotlib.figure

        count = 2 if self.metrics else 1
        figure: Any = matplotlib.figure.Figure(figsize=(4 * count, 3), layout="constrained")
        left, *right = figure.subplots(1, count, squeeze=False)[0]
        panels.plain(left)
        left.plot(list(self.losses), list(self.losses.values()))
        left.set_xlabel("step")
        left.set_ylabel("training loss (nats per token)")
        for axis in right:
            panels.plain(axis)
            for name in next(iter(self.metrics.values())):
                values = [found.get(name, float("nan")) for found in self.metrics.values()]
                axis.plot(list(self.metrics), values, marker=".", label=name)
            if self.best_step is not None:
                axis.axvline(self.best_step, color="0.7", linestyle=":", zorder=0)
            axis.set_xlabel("step (dotted: the best)")
            axis.set_ylabel("validation")
            axis.legend(frameon=False)
        # IPython asks for this where pyplot has not told it how to show figures.
        figure._repr_png_ = functools.partial(_png, figure)
        return figure


def _png(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def read_history(model_dir: str | os.PathLike) -> History:
    """Reads the history of a run, of its tasks the metrics that come last under their names.

    Raises:
      InputError: when the folder is no run, or its summary or its log is damaged.
    """
    summary = run_files.read_summary(model_dir)
    losses: dict[int, float] = {}
    metrics: dict[int, dict[str, float]] = {}
    for row in run_files.read_metrics(model_dir):
        step, split, _ = row.pop("step"), row.pop("split"), row.pop("task")
        if split == "train":
            losses[step] = row["loss"]
        elif split != run_files.PROMPT_SPLIT:
            metrics.setdefault(step, {}).update(
                {name: float("nan") if value is None else value for name, value in row.items()}
            )
    return History(
        losses,
        metrics,
        summary["best_step"],
        summary["best_value"],
        summary["last_step"],
        summary["train_seconds"],
    )
