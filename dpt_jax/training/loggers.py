"""What a run leaves of its metrics: `metrics.jsonl` and TensorBoard."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dpt_jax.files import atomic_write, json_dumps
from dpt_jax.run_files import METRICS


class MetricsLog:
    """`MODEL_DIR/metrics.jsonl` and TensorBoard events of one run.

    A line of the file is `{"step": s, "split": "train", "task": name or null, ...metrics}`; a
    metric that is not a finite number is null.
    """

    def __init__(self, model_dir: str | pathlib.Path, resume_step: int):
        """Opens both, after dropping lines that a killed run wrote beyond its last checkpoint."""
        from clu import metric_writers

        self._path = pathlib.Path(model_dir) / METRICS
        self._drop_after(resume_step)
        self._file = open(self._path, "a", buffering=1)
        self._tensorboard = metric_writers.SummaryWriter(str(model_dir))

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines(keepends=True):
            # The last line of a killed run may be cut short; it then lies beyond the checkpoint.
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(kept))

    def write(
        self, step: int, split: str, metrics: Mapping[str, float], task: str | None = None
    ) -> None:
        """Appends a line, and the same numbers to TensorBoard under `split/task/name`."""
        line = {"step": step, "split": split, "task": task} | dict(metrics)
        self._file.write(json_dumps(line) + "\n")
        prefix = f"{split}/{task}/" if task else f"{split}/"
        self._tensorboard.write_scalars(step, {prefix + k: v for k, v in metrics.items()})

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._tensorboard.flush()
        self._tensorboard.close()


class Silent:
    """What the processes other than the first have for a `MetricsLog` and a `Progress`."""

    def _nothing(self, *args: Any, **kwargs: Any) -> None: ...

    write = update = say = close = _nothing
