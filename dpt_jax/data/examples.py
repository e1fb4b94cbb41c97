"""The examples of a task's split, in memory.

A split is preprocessed and tokenized once and kept in memory as ragged arrays (SuperGLUE's 145,000
training examples take 150 MB): a hundred epochs cost one pass through TensorFlow, and any step's
batch can be formed without replaying those before it.
"""

import dataclasses
import itertools
import logging
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dpt_jax.data import reading
from dpt_jax.data.tasks import check_split, import_seqio, parts
from dpt_jax.data.text_tasks import TextTask
from dpt_jax.devices import agreement
from dpt_jax.errors import InputError


@dataclasses.dataclass
class TaskExamples:
    """One task's split: tokenized features and what metrics need of the original rows.

    Attributes:
      name: the task.
      inputs: source token ids, one int32 array per example.
      targets: target token ids, one int32 array per example.
      rows: all features of every example, for postprocessors; of a split that several processes
        have read together, the tokens alone.
    """

    name: str
    inputs: list[np.ndarray]
    targets: list[np.ndarray]
    rows: list[dict[str, Any]]


def load_split(
    provider: Any,
    split: str,
    feature_lengths: Mapping[str, int],
    overlength: str = "error",
    together: bool = False,
) -> list[TaskExamples]:
    """Tokenizes a split of a task, or of every task of a mixture, into memory.

    Args:
      provider: a task or mixture, SeqIO's or of texts.
      split: `train`, `validation`, ...
      feature_lengths: longest allowed `inputs` and `targets`, in tokens with EOS.
      overlength: what to do with longer examples: `error`, `truncate` or `drop`; the last two
        are counted and logged.
      together: the processes of the run share the work and exchange the tokens, see
        `reading.read_together`; all must call this. Otherwise this process reads everything, and
        so does every process of a task of texts.

    Raises:
      InputError: for an unknown split, an empty one, or examples that are too long.
    """
    loaded = []
    for task, _ in parts(provider):
        check_split(task, split)
        if isinstance(task, TextTask):
            rows = task.read(split)
        else:
            read = reading.read_together if together else reading.read
            rows = read(task, split, None if _cuts(task) else dict(feature_lengths))
        rows = enforce_lengths(
            rows,
            feature_lengths,
            overlength,
            what=f"examples of {task.name!r} ({split})",
        )
        if not rows:
            raise InputError(f"Split {split!r} of task {task.name!r} has no examples.")
        loaded.append(
            TaskExamples(
                name=task.name,
                inputs=[np.asarray(row["inputs"], np.int32) for row in rows],
                targets=[np.asarray(row["targets"], np.int32) for row in rows],
                rows=rows,
            )
        )
    return loaded


def _cuts(task: Any) -> bool:
    # Told the lengths, SeqIO's preprocessor cuts in silence, and OVERLENGTH has nothing to decide.
    preprocessors = import_seqio().preprocessors
    return preprocessors.append_eos_after_trim in task.preprocessors


def enforce_lengths(
    rows: list[dict[str, Any]],
    lengths: Mapping[str, int],
    overlength: str,
    *,
    what: str,
    limit: str = "TASK_FEATURE_LENGTHS",
    remedy: str = "Raise --gin.TASK_FEATURE_LENGTHS, or accept the loss with "
    "--gin.OVERLENGTH=\"'truncate'\" or \"'drop'\".",
) -> list[dict[str, Any]]:
    """The rows that are short enough, or have been cut.

    Args:
      rows: tokenized `inputs` and `targets`, or one of them.
      lengths: the most tokens of each, end token included.
      overlength: see `load_split`.
      what: what the rows are, for the message.
      limit: what sets the lengths, for the message.
      remedy: what can be done, a sentence.

    Raises:
      InputError: when rows are too long and `overlength` is "error"; it counts them.
    """
    longest = {f: max((len(row[f]) for row in rows), default=0) for f in lengths}
    too_long = [any(len(row[f]) > lengths[f] for f in lengths) for row in rows]
    if not any(too_long):
        return rows
    found = (
        f"{sum(too_long)} of {len(rows)} {what} are longer than {limit} = {dict(lengths)}; the "
        f"longest have {longest} tokens"
    )
    if overlength == "error":
        raise InputError(f"{found}. {remedy}")
    if agreement.is_first():
        logging.warning("%s: %s.", found, {"truncate": "cut", "drop": "dropped"}[overlength])
    if overlength == "drop":
        return [row for row, long in zip(rows, too_long, strict=True) if not long]
    return [_truncate(row, lengths) for row in rows]


def _truncate(row, feature_lengths):
    row = dict(row)
    for feature, limit in feature_lengths.items():
        tokens = row[feature]
        if len(tokens) > limit:
            # The last token is EOS, which the model was trained to see at the end.
            row[feature] = np.concatenate([tokens[: limit - 1], tokens[-1:]])
    return row


def checksum(tasks: Iterable[TaskExamples]) -> int:
    """Tells one set of tokenized examples, in one order, from another."""
    crc = 0
    for task in tasks:
        for row in itertools.chain(task.inputs, task.targets):
            crc = zlib.crc32(row.tobytes(), crc)
    return crc
