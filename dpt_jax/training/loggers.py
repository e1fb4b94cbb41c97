"""What a run leaves of its metrics: `metrics.jsonl` and TensorBoard."""

import json
import pathlib
import socket
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
        self._path = pathlib.Path(model_dir) / METRICS
        self._drop_after(resume_step)
        self._file = open(self._path, "a", buffering=1)
        self._tensorboard = Events(model_dir, resume_step)

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
        self,
        step: int,
        split: str,
        metrics: Mapping[str, float],
        task: str | None = None,
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        """Appends a line, and the same numbers to TensorBoard under `split/task/name`.

        Args:
          step: updates made.
          split: what was measured, and where.
          metrics: numbers by name.
          task: the task whose numbers they are.
          shown: what TensorBoard shows beside them, as `TaskResult.shown`.
        """
        line = {"step": step, "split": split, "task": task} | dict(metrics)
        self._file.write(json_dumps(line) + "\n")
        prefix = f"{split}/{task}/" if task else f"{split}/"
        self._tensorboard.write(
            step,
            {prefix + k: v for k, v in metrics.items()},
            {prefix + k: v for k, v in (shown or {}).items()},
        )

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        self._tensorboard.close()


class Events:
    """A file of TensorBoard events in a run's folder, written without TensorFlow."""

    def __init__(self, model_dir: str | pathlib.Path, resume_step: int):
        """Starts a file of its own; of those before, TensorBoard forgets what is beyond the step.

        Args:
          model_dir: the run's folder.
          resume_step: updates made before.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._records = RecordWriter(open(pathlib.Path(model_dir) / name, "xb"))
        self._append(file_version="brain.Event:2")
        started = SessionLog(status=SessionLog.START)
        self._append(step=resume_step + 1, session_log=started)

    def write(
        self, step: int, scalars: Mapping[str, float], others: Mapping[str, Any] | None = None
    ) -> None:
        """Adds scalars by tag, float32, as `tf.summary.scalar` would, and other summary values."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_FLOAT
        from tensorboard.plugins.scalar.metadata import create_summary_metadata

        values = [
            Summary.Value(
                tag=tag,
                metadata=create_summary_metadata(display_name="", description=""),
                tensor=TensorProto(dtype=DT_FLOAT, float_val=[value]),
            )
            for tag, value in scalars.items()
        ]
        for tag, value in (others or {}).items():
            values.append(Summary.Value(tag=tag, metadata=value.metadata, tensor=value.tensor))
        self._append(step=step, summary=Summary(value=values))

    def _append(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
        # A run writes few of them, and someone may be watching.
        self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()


class Silent:
    """What the processes other than the first have for a `MetricsLog` and a `Progress`."""

    def _nothing(self, *args: Any, **kwargs: Any) -> None: ...

    write = update = say = close = _nothing
