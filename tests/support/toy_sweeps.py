"""Sweeps of the toy runs, as gin files."""

import pathlib

from tests.support import runs

_HEAD = """
from __gin__ import dynamic_registration
from dpt_jax import sweeps
"""


def write(path: pathlib.Path, backbone: pathlib.Path, report: dict | None = None, **sweep) -> str:
    """Writes the gin file of a sweep over toy runs of 4 steps; returns its path."""
    bindings = {
        "INITIAL_CHECKPOINT_PATH": str(backbone),
        "MIXTURE_OR_TASK_NAME": "toy_x",
        "MIXTURE_OR_TASK_MODULE": "tests.support.deadly_tasks",
        "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 6},
        "PROMPT_LENGTH": runs.PROMPT_LENGTH,
        "BOTTLENECK": runs.BOTTLENECK,
        "TRAIN_STEPS": 4,
        "EVAL_PERIOD": 2,
        "NUM_BUCKETS": 1,
    }
    fields = {
        "name": path.stem,
        "gin_files": [
            "runs/prompt_train.gin",
            str(backbone.parent / "tiny.gin"),
            "prompts/decomposed.gin",
        ],
        "bindings": bindings | sweep.pop("bindings", {}),
        **sweep,
    }
    lines = [f"sweeps.Sweep.{name} = {value!r}" for name, value in fields.items()]
    if report is not None:
        lines.append("sweeps.Sweep.report = @sweeps.Report()")
        lines += [f"sweeps.Report.{name} = {value!r}" for name, value in report.items()]
    path.write_text("\n".join([_HEAD, *lines]) + "\n")
    return str(path)
