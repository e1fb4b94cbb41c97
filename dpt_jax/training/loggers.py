"""What a run leaves of its metrics: `metrics.jsonl` and TensorBoard."""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.files import json_dumps, write_bytes
from dpt_jax.paths import as_path, in_bucket
from dpt_jax.run_files import METRICS, metrics_row

# (step, split, metrics): a line of the log, as it is written.
Callback = Callable[[int, str, Mapping[str, float]], object]

# A bucket's objects cannot grow: what is written between is lost when the process is killed, and
# belongs to steps after the last checkpoint.
_SECONDS_BETWEEN_WRITES = 30.0


class MetricsLog:
    """`MODEL_DIR/metrics.jsonl` and TensorBoard events of one run.

    A line of the file is `{"step": s, "split": "train", "task": name or null, ...metrics}`; a
    metric that is not a finite number is null.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike,
        resume_step: int,
        callbacks: Sequence[Callback] = (),
        logged_step: int = 0,
    ):
        """Opens both, after dropping lines that a killed run wrote beyond its last checkpoint.

        Args:
          model_dir: the run's folder.
          resume_step: the step of that checkpoint.
          callbacks: each is called with every line.
          logged_step: that of the last line of training up to there; 0 where there is none.

        Raises:
          InputError: a line is damaged that may be one up to the checkpoint.
        """
        self._callbacks = callbacks
        path = as_path(model_dir) / METRICS
        self._file = growing_file(path, _lines_until(path, resume_step, logged_step))
        self._tensorboard = Events(model_dir, resume_step)

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
        self._file.write(f"{json_dumps(line)}\n".encode())
        self._file.flush()
        prefix = f"{split}/{task}/" if task else f"{split}/"
        self._tensorboard.write(
            step,
            {prefix + k: v for k, v in metrics.items()},
            {prefix + k: v for k, v in (shown or {}).items()},
        )
        for callback in self._callbacks:
            callback(step, split, metrics)

    def sync(self) -> None:
        """Returns when all that was written is where a restart finds it."""
        self._file.sync()
        self._tensorboard.sync()

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        self._tensorboard.close()


def _lines_until(path: Any, step: int, logged_step: int) -> bytes:
    """The lines of a log up to a step, of which `logged_step` has one."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return b""
    # The last line of a killed run may be cut short; it then lies beyond the checkpoint.
    rows = [metrics_row(line) for line in lines if line.endswith(b"\n")]
    steps = {i: row["step"] for i, row in enumerate(rows) if row is not None}
    kept = {i: at for i, at in steps.items() if at <= step}
    if None in rows:
        damaged = rows.index(None)
        text = f"{path}, line {damaged + 1} is damaged"
        if max(kept, default=-1) > damaged or max(kept.values(), default=0) < logged_step:
            raise InputError(
                f"{text}, and the run goes on from step {step}, whose log it may belong to. Copy "
                "the run's folder again, or delete that line to go on without it."
            )
        print(f"{text}, and dropped: it lies beyond step {step}.", file=sys.stderr)
    return b"".join(lines[i] for i in kept)


class Events:
    """A file of TensorBoard events in a run's folder, written without TensorFlow."""

    def __init__(self, model_dir: str | os.PathLike, resume_step: int):
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
        self._file = growing_file(as_path(model_dir) / name, b"")
        self._records = RecordWriter(self._file)
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

    def sync(self) -> None:
        """Returns when all that was written is where a restart finds it."""
        self._file.sync()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def growing_file(path: Any, start: bytes) -> "_File | _Object":
    """A file to write to at its end, whose contents so far are replaced by `start`."""
    write_bytes(path, start)
    return _Object(path, start) if in_bucket(path) else _File(path)


class _File:
    """A file that grows."""

    def __init__(self, path: Any):
        self._file = open(path, "ab")
        self.write, self.flush, self.close = self._file.write, self._file.flush, self._file.close

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


class _Object:
    """An object of a bucket, which is written anew with all that it has had, now and then."""

    def __init__(self, path: Any, start: bytes):
        self._path, self._data = path, bytearray(start)
        self._written, self._at = len(start), time.monotonic()

    def write(self, data: bytes) -> None:
        self._data += data

    def flush(self) -> None:
        if time.monotonic() - self._at > _SECONDS_BETWEEN_WRITES:
            self.sync()

    def sync(self) -> None:
        if self._written < len(self._data):
            write_bytes(self._path, bytes(self._data))
        self._written, self._at = len(self._data), time.monotonic()

    close = sync


class Silent:
    """What the processes other than the first have for a `MetricsLog` and a `Progress`."""

    def _nothing(self, *args: Any, **kwargs: Any) -> None: ...

    write = sync = update = say = close = _nothing
