"""A run of `t5x.train` with our gin files, read back from what T5X leaves in its folder.

T5X keeps the metrics in `inference_eval/<task>-metrics.jsonl`, a line per evaluation, and the gin
text in `config.gin`; the prompts are where those of `dpt train` are.
"""

import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from dpt_jax import run_files
from dpt_jax.errors import InputError
from dpt_jax.paths import as_path

# What T5X writes before the first step, and no run of `dpt train` has.
_MARK = "model-info.txt"
_EVALUATIONS = "inference_eval"
_SUFFIX = "-metrics.jsonl"


def is_run(folder: str | os.PathLike) -> bool:
    """Whether `t5x.train` has written to the folder."""
    path = as_path(folder)
    return (path / _MARK).is_file() and not (path / run_files.IDENTITY).exists()


def read_run(folder: pathlib.Path, metric: str | None = None) -> dict[str, Any]:
    """The same of such a run as `results.read_run` tells of one of `dpt train`.

    How long it took is not known: `train_seconds` is None.

    Raises:
      InputError: a line of its metrics is damaged.
    """
    tasks = _evaluations(folder)
    scores: dict[int, list[float]] = {}
    for by_step in tasks.values():
        for step, metrics in by_step.items():
            value = next(iter(metrics.values()), None) if metric is None else metrics.get(metric)
            if value is not None:
                scores.setdefault(step, []).append(value)
    # Of a step that a killed run left half evaluated, some tasks say nothing.
    means = {step: sum(v) / len(v) for step, v in sorted(scores.items()) if len(v) == len(tasks)}
    if not means:
        return {"status": "unfinished", "value": None}
    best = max(means, key=lambda step: means[step])
    last, asked = max(means), _train_steps(folder)
    return {
        "status": "done" if asked is not None and last >= asked else "unfinished",
        "value": means[best],
        "metrics": {task: by_step[best] for task, by_step in tasks.items()},
        "best_step": best,
        "last_step": last,
        "train_steps": asked,
        "trainable_parameters": _trained(folder),
        "train_seconds": None,
        "stopped_early": False,
        "curves": {"score": [list(means), list(means.values())]},
    }


def _evaluations(folder: pathlib.Path) -> dict[str, dict[int, dict[str, float]]]:
    """The numbers of every evaluation, by task and step."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for path in sorted((folder / _EVALUATIONS).glob(f"*{_SUFFIX}")):
        by_step = found.setdefault(path.name.removesuffix(_SUFFIX), {})
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                metrics = dict(json.loads(line))
                step = int(metrics.pop("step"))
            except (ValueError, TypeError, KeyError) as e:
                raise InputError(f"{path}, line {number} is no evaluation of T5X: {e!r}.") from e
            # A step that was evaluated again after a restart counts as it was the last time.
            by_step[step] = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    return found


def _train_steps(folder: pathlib.Path) -> int | None:
    path = folder / run_files.CONFIG
    text = path.read_text() if path.is_file() else ""
    match = re.search(r"^TRAIN_STEPS *= *(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


def _trained(folder: pathlib.Path) -> int:
    """How many numbers of prompt and prefix were trained."""
    count = 0
    for saved in list(run_files.numpy_checkpoints(folder).values())[:1]:
        for name in (run_files.FACTORS, run_files.PREFIX_FACTORS):
            if (saved / name).exists():
                with np.load(saved / name, allow_pickle=False) as factors:
                    count += sum(factors[name].size for name in factors.files)
    return count
