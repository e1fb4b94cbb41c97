"""Results read back: a run's folder as one row, and the rows of a sweep."""

import io
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpt_jax import run_files
from dpt_jax.analysis import t5x_runs
from dpt_jax.analysis.spectrum import spectrum
from dpt_jax.errors import InputError
from dpt_jax.paths import as_path

# A sweep's files.
SWEEP, RESULTS, CSV = "sweep.json", "results.jsonl", "results.csv"
_IN_SUMMARY = (
    "metrics",
    "best_step",
    "last_step",
    "train_steps",
    "trainable_parameters",
    "train_seconds",
)


def read_run(model_dir: str | os.PathLike, metric: str | None = None) -> dict[str, Any]:
    """The result of a run of `dpt train`, or of `t5x.train` with our gin files.

    Args:
      model_dir: the run's folder, which need not exist.
      metric: the metric of the learning curve; None is the first of each task.

    Returns:
      `status` ("done", "unfinished" or "not run"), `value` (the best evaluation's), what
      `summary.json` says, `curves` (name to `[[step, ...], [value, ...]]`: `score`, averaged over
      the tasks, and what the prompt says of itself at every evaluation), `train_loss` (of the
      log's last line) and `singular_values` of the best prompt, largest first.

    Raises:
      InputError: when the summary or the log of a run is damaged.
    """
    folder = as_path(model_dir)
    if t5x_runs.is_run(folder):
        row = t5x_runs.read_run(folder, metric)
        if row["status"] == "done":
            row["singular_values"] = _singular_values(folder, row["best_step"])
        return row
    try:
        summary = run_files.read_json(
            folder / run_files.SUMMARY, "Delete it and run the training's command again."
        )
    except FileNotFoundError:
        started = (folder / run_files.IDENTITY).exists()
        return {"status": "unfinished" if started else "not run", "value": None}
    finished = run_files.is_finished(summary)
    row = {
        "status": "done" if finished else "unfinished",
        "value": summary["best_value"],
        **{name: summary[name] for name in _IN_SUMMARY},
        "stopped_early": bool(summary.get("stopped_early")),
    }
    if finished:
        row["train_loss"] = _last_loss(folder)
        row["curves"] = read_curves(folder, metric)
        row["singular_values"] = _singular_values(folder, summary["best_step"])
    return row


def best_step(model_dir: str | os.PathLike) -> int | None:
    """The step that the run's own evaluations found best; None where there were none.

    Raises:
      InputError: when the folder is no run, or one that never got as far as an evaluation.
    """
    if t5x_runs.is_run(model_dir):
        return t5x_runs.read_run(as_path(model_dir)).get("best_step")
    return run_files.read_summary(model_dir)["best_step"]


def read_curves(folder: Any, metric: str | None = None) -> dict[str, list[list[float]]]:
    """The learning curve `score`, and the curves of the prompt's own numbers, by name.

    Raises:
      InputError: when a line of the log is damaged.
    """
    scores: dict[int, list[float]] = {}
    named: dict[int, float] = {}
    curves: dict[str, list[list[float]]] = {}
    for row in run_files.read_metrics(folder):
        step, split, task = row.pop("step"), row.pop("split"), row.pop("task")
        if split == run_files.PROMPT_SPLIT:
            for name, value in row.items():
                if value is not None:
                    curve = curves.setdefault(name, [[], []])
                    curve[0].append(step)
                    curve[1].append(value)
        elif split != "train" and task is not None:
            # The average of SuperGLUE's eight tasks has a line of its own, under the mixture.
            if "superglue_average" in row:
                named[step] = row["superglue_average"]
            else:
                value = _metric(row, metric)
                if value is not None:
                    scores.setdefault(step, []).append(value)
    means = {step: sum(values) / len(values) for step, values in scores.items()} | named
    if means:
        steps = sorted(means)
        curves["score"] = [[*steps], [means[step] for step in steps]]
    return curves


def _last_loss(folder: Any) -> float | None:
    losses = [row["loss"] for row in run_files.read_metrics(folder) if row["split"] == "train"]
    return losses[-1] if losses else None


def _metric(row: Mapping[str, Any], metric: str | None) -> float | None:
    return next(iter(row.values()), None) if metric is None else row.get(metric)


def _singular_values(folder: Any, step: int | None) -> list[float] | None:
    saved = run_files.numpy_checkpoints(folder)
    if step not in saved or not (saved[step] / run_files.PROMPT).exists():
        return None
    prompt = np.load(io.BytesIO((saved[step] / run_files.PROMPT).read_bytes()))
    if prompt.ndim != 2:
        return None  # One for each layer of a vision transformer.
    values = spectrum(prompt).singular_values
    return [float(f"{value:.6g}") for value in values]


def read_results(folder: Any) -> list[dict[str, Any]]:
    """Reads the `results.jsonl` of a sweep's folder.

    Raises:
      InputError: when a line is no result.
    """
    rows = []
    for number, line in enumerate((folder / RESULTS).read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            missing = {"sweep", "point", "axes", "status"} - set(row)
        except (ValueError, TypeError) as e:
            raise InputError(f"{folder / RESULTS}, line {number} is no JSON object.") from e
        if missing:
            raise InputError(
                f"{folder / RESULTS}, line {number} lacks {', '.join(sorted(missing))}: it is no "
                "result of dpt sweep."
            )
        rows.append(row)
    return rows
