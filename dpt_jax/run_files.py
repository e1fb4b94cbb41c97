"""The names of a run's files, and where in its folder they are: the one place that spells them.

`MODEL_DIR` holds::

    config.gin            the operative configuration
    run.json              the run's identity, the last of the files that a run starts with
    few_shot.json         the drawn examples of few-shot tasks
    vocabulary.json       what tokenizing needs, and sentencepiece.model the pieces
    checkpoints/<step>/   what training changes, for a restart
    numpy_checkpoints/checkpoint_<step>/   prompt.npy [P, D], prompt_params.npz (the factors)
    metrics.jsonl         one JSON object per line, and TensorBoard events beside it
    predictions/<task>_<step>.jsonl
    summary.json          the best step and its metrics
"""

import json
import pathlib
import re
import shutil
from typing import Any

from dpt_jax.errors import InputError

CONFIG = "config.gin"
IDENTITY = "run.json"
# {"dpt_rte_k8_s0": [[12], [40], ...]}: the drawn examples' `idx`.
FEW_SHOT = "few_shot.json"
# How the task's vocabulary turns text into ids, and the pieces of one that has pieces.
VOCABULARY = "vocabulary.json"
PIECES = "sentencepiece.model"
CHECKPOINTS = "checkpoints"
NUMPY_CHECKPOINTS = "numpy_checkpoints"
METRICS = "metrics.jsonl"
PREDICTIONS = "predictions"
SUMMARY = "summary.json"

# In a folder of `numpy_checkpoints`: the folded prompt, and the factors it is folded from.
PROMPT = "prompt.npy"
FACTORS = "prompt_params.npz"

# The split under which metrics.jsonl has what a prompt says of itself (`SoftPrompt.diagnostics`).
PROMPT_SPLIT = "prompt"


def read_summary(model_dir: str | pathlib.Path) -> dict[str, Any]:
    """Reads `summary.json`.

    Raises:
      InputError: when the folder is no run, or one that never got as far as a summary.
    """
    path = pathlib.Path(model_dir) / SUMMARY
    if not path.exists():
        raise InputError(
            f"{model_dir} has no {SUMMARY}: it is not the MODEL_DIR of a run that has evaluated "
            "or finished."
        )
    return json.loads(path.read_text())


def best_step(model_dir: str | pathlib.Path) -> int | None:
    """The step that the run's own evaluations found best; None where there were none."""
    try:
        return json.loads((pathlib.Path(model_dir) / SUMMARY).read_text())["best_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def numpy_checkpoint(model_dir: str | pathlib.Path, step: int) -> pathlib.Path:
    """Where the exported prompt of a step is: `MODEL_DIR/numpy_checkpoints/checkpoint_<step>`."""
    return pathlib.Path(model_dir) / NUMPY_CHECKPOINTS / f"checkpoint_{step}"


def numpy_checkpoints(model_dir: str | pathlib.Path) -> dict[int, pathlib.Path]:
    """A run's saved prompts: the folder of each step that has a whole prompt, steps ascending."""
    found = {}
    for folder in (pathlib.Path(model_dir) / NUMPY_CHECKPOINTS).glob("checkpoint_*"):
        match = re.fullmatch(r"checkpoint_(\d+)", folder.name)
        if match and (folder / PROMPT).exists():
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


def prune_numpy_checkpoints(model_dir: str | pathlib.Path, keep: set[int]) -> None:
    """Deletes exported prompts of steps not in `keep`."""
    kept = {numpy_checkpoint(model_dir, step) for step in keep}
    for folder in (pathlib.Path(model_dir) / NUMPY_CHECKPOINTS).glob("checkpoint_*"):
        if folder not in kept:
            shutil.rmtree(folder)
