"""What a run tells people and files: progress, TensorBoard and `metrics.jsonl`."""

import json
import pathlib
import sys
import time
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


class Progress:
    """A progress bar on a terminal, plain lines elsewhere: step, loss, steps/s, time left."""

    def __init__(self, total: int, start: int, seconds_between_lines: float = 10.0):
        self._total, self._start = total, start
        self._began = self._last_line = time.monotonic()
        self._seconds = seconds_between_lines
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("train", total=total, completed=start, shown="")
            self._bar.start()

    def update(self, step: int, loss: float) -> None:
        """Shows the step, its loss, the mean rate since the start, and the time left."""
        elapsed = time.monotonic() - self._began
        rate = (step - self._start) / max(elapsed, 1e-9)
        shown = f"loss {loss:.4f}  {rate:.2f} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, shown=shown)
        elif time.monotonic() - self._last_line >= self._seconds or step == self._total:
            self._last_line = time.monotonic()
            left = (self._total - step) / max(rate, 1e-9)
            self.say(f"step {step}/{self._total}  {shown}  {_clock(left)} left")

    def say(self, text: str) -> None:
        """Prints a line above the bar, or as it is where there is no bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
