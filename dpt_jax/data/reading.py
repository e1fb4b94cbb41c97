"""The rows of a task's split, read by one process, or by several that share the work."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from dpt_jax.devices import agreement, exchange
from dpt_jax.errors import InputError


def read(
    task: Any, split: str, sequence_length: Mapping[str, int] | None
) -> list[dict[str, np.ndarray]]:
    """Reads and preprocesses a split, in order.

    Args:
      task: a SeqIO task.
      split: one of its splits.
      sequence_length: longest `inputs` and `targets`, for preprocessors that ask; None tells none.

    Raises:
      InputError: for what the task refuses in its data.
    """
    with task_errors(task.name, split):
        dataset = task.get_dataset(
            sequence_length=sequence_length,
            split=split,
            shuffle=False,
            num_epochs=1,
            trim_output_features=False,
        )
        return list(dataset.as_numpy_iterator())


def read_together(
    task: Any, split: str, sequence_length: Mapping[str, int] | None
) -> list[dict[str, np.ndarray]]:
    """`read` by all processes of a run: each preprocesses a block of the source's rows.

    The blocks are contiguous and in the processes' order, so that the order of the rows is that of
    a single process, on any number of them. That asks of the source that it always gives its rows
    in the same order, and of the preprocessors that they take row by row: one that looks across
    rows, or draws by their position, sees its own process's block alone, as with SeqIO's shards.
    To reach its block a process passes over the rows before it, which costs no preprocessing.

    Args:
      task: as `read` takes it. A subclass of SeqIO's `Task` is read whole by every process.
      split: as `read` takes it.
      sequence_length: as `read` takes it.

    Returns:
      The whole split; of several processes, `inputs` and `targets` alone, int32.

    Raises:
      InputError: in all processes, for what the task refuses in the data of one, and where they
        do not find the same number of rows.
    """
    import seqio

    processes = agreement.process_count()
    # `Task.replace` gives no subclass back, and with it would go what makes it one.
    if processes == 1 or type(task) is not seqio.Task:
        return read(task, split, sequence_length)
    with agreement.raise_everywhere():
        with task_errors(task.name, split):
            dataset = task.source.get_dataset(split=split, shuffle=False)
            count = count_rows(task.source, split, dataset)
        agreement.check_same("training data", {f"rows of {task.name} ({split})": count})
        mine = block(count, jax.process_index(), processes)
        rows = read(with_rows(task, split, dataset, mine), split, sequence_length)
    features = ("inputs", "targets")
    columns = [
        exchange.allgather_rows([np.asarray(row[feature], np.int32) for row in rows])
        for feature in features
    ]
    return [dict(zip(features, row, strict=True)) for row in zip(*columns, strict=True)]


def count_rows(source: Any, split: str, dataset: Any) -> int:
    """The rows of a SeqIO source's split: what the source says, which may be wrong, or a count.

    Args:
      source: the source.
      split: one of its splits.
      dataset: the `tf.data.Dataset` of that split.
    """
    known = source.num_input_examples(split)
    # SeqIO's TFDS source says infinity where TFDS does not know.
    if known is not None and known < math.inf:
        return int(known)
    return int(dataset.reduce(np.int64(0), lambda count, _: count + 1))


def block(count: int, process: int, processes: int) -> slice:
    """The rows that a process reads; the last one reads to the end, so `count` may be wrong."""
    last = process == processes - 1
    return slice(process * count // processes, None if last else (process + 1) * count // processes)


def with_rows(task: Any, split: str, dataset: Any, rows: slice) -> Any:
    """A copy of a SeqIO task whose source has one split, with only those rows of `dataset`."""
    import seqio

    part = dataset.skip(rows.start)
    if rows.stop is not None:
        part = part.take(rows.stop - rows.start)

    def dataset_fn(split, shuffle_files):
        del split, shuffle_files
        return part

    return task.replace(source=seqio.FunctionDataSource(dataset_fn, splits=[split]))


@contextlib.contextmanager
def task_errors(task: str, split: str) -> Iterator[None]:
    """Turns what a task refuses in its data into an InputError.

    That is a ValueError, or what TensorFlow makes of an error inside a `tf.data` pipeline.
    """
    import tensorflow as tf

    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError, tf.errors.OpError) as e:
        raise InputError(f"Split {split!r} of task {task!r}: {message(e)}") from e


# How TensorFlow wraps an exception of Python code that it has called.
_RAISED_IN_TENSORFLOW = re.compile(r"(?:[\w.]*(?:Error|Exception)): (.*?)\s*\nTraceback", re.DOTALL)


def message(error: Exception) -> str:
    """What an error says, in one line, without what TensorFlow puts around it."""
    text = str(getattr(error, "message", error)).strip()
    wrapped = _RAISED_IN_TENSORFLOW.search(text)
    return " ".join((wrapped.group(1) if wrapped else text.split("\n\t [[")[0]).split())
