"""The names of a run's files, and where in its folder they are: the one place that spells them.

`MODEL_DIR` holds::

    config.gin            the operative configuration
    run.json              the run's identity, the last of the files that a run starts with
    few_shot.json         the drawn examples of few-shot tasks
    start.json            what was measured on the frozen model for the first values
    images.json           of a run on images: the classes, and the drawn images
    vocabulary.json       what tokenizing needs, and sentencepiece.model the pieces, or
                          tokenizer.json
    checkpoints/<step>/   what training changes, for a restart
    numpy_checkpoints/checkpoint_<step>/   prompt.npy [P, D], prompt_params.npz (the factors);
                          of a prefix prefix.npz and prefix_params.npz; for images head.npz
    metrics.jsonl         one JSON object per line, and TensorBoard events beside it
    predictions/<task>_<step>.jsonl
    summary.json          the best step and its metrics
    .lock                 who is training there
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.files import entries, remove
from dpt_jax.paths import as_path

CONFIG = "config.gin"
IDENTITY = "run.json"
# {"dpt_rte_k8_s0": [[12], [40], ...]}: the drawn examples' `idx`.
FEW_SHOT = "few_shot.json"
# {"residual_norm": 66.0}: where a prompt that starts at a measured norm has started.
START = "start.json"
# {"classes": [...], "drawn": [...]}
IMAGES = "images.json"
# How the task's vocabulary turns text into ids, and the pieces of one that has pieces.
VOCABULARY = "vocabulary.json"
PIECES = "sentencepiece.model"
TOKENIZER = "tokenizer.json"
CHECKPOINTS = "checkpoints"
NUMPY_CHECKPOINTS = "numpy_checkpoints"
METRICS = "metrics.jsonl"
PREDICTIONS = "predictions"
SUMMARY = "summary.json"
# Who is training in the folder.
LOCK = ".lock"

# What readers of a summary rely on.
_IN_SUMMARY = ("best_step", "best_value", "metrics", "last_step", "train_steps")

# In a folder of `numpy_checkpoints`: the folded prompt, and the factors it is folded from.
PROMPT = "prompt.npy"
FACTORS = "prompt_params.npz"
# The same of a prefix.
PREFIX = "prefix.npz"
PREFIX_FACTORS = "prefix_params.npz"

# The linear heads of a run on images.
HEAD = "head.npz"

# Where `dpt attention` puts what it finds of a run on images, and the pictures among it.
ATTENTION = "attention"
ATTENTION_PICTURES = ("attention.png", "selection.png")

# The split under which metrics.jsonl has what a prompt says of itself (`SoftPrompt.diagnostics`).
PROMPT_SPLIT = "prompt"


def read_json(path: str | os.PathLike, remedy: str) -> dict[str, Any]:
    """Reads one of the run's JSON files, each of which holds an object.

    Args:
      path: the file.
      remedy: what to do about a damaged one, a sentence.

    Raises:
      FileNotFoundError: there is none.
      InputError: it is damaged, or cannot be read.
    """
    try:
        value = json.loads(as_path(path).read_text())
    except FileNotFoundError:
        raise
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}. {remedy}") from e
    except ValueError as e:
        raise InputError(f"{path} is damaged: {e}. {remedy}") from e
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object. {remedy}")
    return value


def metrics_row(line: bytes) -> dict[str, Any] | None:
    """A line of `metrics.jsonl`; None for a damaged one, as a power cut may leave it."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"step", "split", "task"} <= row.keys() else None


def read_metrics(model_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`, but for a last line that is still being written.

    Raises:
      FileNotFoundError: there is none.
      InputError: a line is damaged.
    """
    path = as_path(model_dir) / METRICS
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        row = metrics_row(line)
        if row is not None:
            rows.append(row)
        elif line.endswith(b"\n"):
            raise InputError(
                f"{path}, line {number} is damaged. Copy the run's folder again, or delete that "
                "line to go on without it."
            )
    return rows


def read_summary(model_dir: str | os.PathLike) -> dict[str, Any]:
    """Reads `summary.json`.

    Raises:
      InputError: when the folder is no run, one that never got as far as a summary, or damaged.
    """
    path = as_path(model_dir) / SUMMARY
    try:
        summary = read_json(path, "Delete it and run the training's command again.")
    except FileNotFoundError as e:
        raise InputError(
            f"{model_dir} has no {SUMMARY}: it is not the MODEL_DIR of a run that has evaluated "
            "or finished."
        ) from e
    missing = [name for name in _IN_SUMMARY if name not in summary]
    if missing:
        raise InputError(
            f"{path} is damaged: it has no {missing[0]}. Delete it and run the training's command "
            "again."
        )
    return summary


def is_finished(summary: Mapping[str, Any]) -> bool:
    """Whether the run of a summary came to its last step, or stopped early."""
    return summary["last_step"] >= summary["train_steps"] or bool(summary.get("stopped_early"))


def holds_training(model_dir: str | os.PathLike) -> bool:
    """Whether a run's folder has anything that was trained: a checkpoint, a prompt or a summary."""
    folder = as_path(model_dir)
    steps = (path.name for path in entries(folder / CHECKPOINTS))
    return (
        any(name.isdigit() for name in steps)
        or bool(entries(folder / NUMPY_CHECKPOINTS))
        or (folder / SUMMARY).exists()
    )


def best_step(model_dir: str | os.PathLike) -> int | None:
    """The step that the run's own evaluations found best; None where there were none."""
    try:
        return read_summary(model_dir)["best_step"]
    except InputError:
        return None


def named_step(
    model_dir: str | os.PathLike,
    name: str,
    saved: Collection[int],
    best_of: Callable[[str | os.PathLike], int | None] = best_step,
) -> int:
    """The step that `best`, `latest` or a number names among those that a run has saved.

    Args:
      model_dir: the run's folder.
      name: what names the step.
      saved: steps that are there.
      best_of: tells the best step of a folder, or None.

    Raises:
      InputError: when it does not have that step, or none.
    """
    if not saved:
        raise InputError(f"{model_dir} holds no saved step; is it the MODEL_DIR of a run?")
    if name == "latest":
        return max(saved)
    if name == "best":
        best = best_of(model_dir)
        return max(saved) if best is None else best
    if not name.isdigit() or int(name) not in saved:
        raise InputError(
            f"--step is {name!r}; {model_dir} has best, latest and {', '.join(map(str, saved))}."
        )
    return int(name)


def numpy_checkpoint(model_dir: str | os.PathLike, step: int) -> pathlib.Path:
    """Where the exported prompt of a step is: `MODEL_DIR/numpy_checkpoints/checkpoint_<step>`."""
    return as_path(model_dir) / NUMPY_CHECKPOINTS / f"checkpoint_{step}"


def numpy_checkpoints(model_dir: str | os.PathLike) -> dict[int, pathlib.Path]:
    """A run's saved prompts: the folder of each step with a prompt or prefix, steps ascending."""
    found = {}
    for folder in entries(as_path(model_dir) / NUMPY_CHECKPOINTS):
        match = re.fullmatch(r"checkpoint_(\d+)", folder.name)
        if match and _is_whole(folder):
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


def _is_whole(folder: Any) -> bool:
    # In a bucket a folder appears file by file: the factors before what is folded from them.
    pairs = [
        ((folder / factors).exists(), (folder / folded).exists())
        for factors, folded in ((FACTORS, PROMPT), (PREFIX_FACTORS, PREFIX))
    ]
    return any(whole for _, whole in pairs) and all(whole or not begun for begun, whole in pairs)


def kept_checkpoint(model_dir: str | os.PathLike) -> pathlib.Path | None:
    """The saved prompt that stands for a run: of its best step, or else of its latest."""
    steps = numpy_checkpoints(model_dir)
    best = best_step(model_dir)
    return steps.get(max(steps, default=0) if best is None else best)


def prune_numpy_checkpoints(model_dir: str | os.PathLike, keep: set[int]) -> None:
    """Deletes exported prompts of steps not in `keep`."""
    kept = {numpy_checkpoint(model_dir, step).name for step in keep}
    for folder in entries(as_path(model_dir) / NUMPY_CHECKPOINTS):
        if folder.name.startswith("checkpoint_") and folder.name not in kept:
            # Without these the folder is no result, whatever of it a killed process leaves.
            for name in (PROMPT, PREFIX):
                remove(folder / name)
            remove(folder)
