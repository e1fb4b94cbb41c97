"""SeqIO tasks and mixtures as NumPy batches.

A split is preprocessed and tokenized once and kept in memory as ragged arrays (SuperGLUE's 145,000
training examples take 150 MB): a hundred epochs cost one pass through TensorFlow, and any step's
batch can be formed without replaying those before it.
"""

import dataclasses
import importlib
import itertools
import logging
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dpt_jax.errors import InputError, nearest_names
from dpt_jax.training import distributed, reading
from dpt_jax.training.batching import Sampler, Schedule, choose_buckets

OVERLENGTH = ("error", "truncate", "drop")


def import_seqio() -> Any:
    """Imports SeqIO without the start-up messages of TensorFlow's C++ libraries.

    They go straight to file descriptor 2 before any setting is read, and say nothing of use to
    someone who trains with JAX. Errors of the import are exceptions and are not lost.
    """
    if "seqio" not in sys.modules:
        sys.stderr.flush()
        kept = os.dup(2)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            importlib.import_module("seqio")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    return sys.modules["seqio"]


@dataclasses.dataclass
class TaskExamples:
    """One task's split: tokenized features and what metrics need of the original rows.

    Attributes:
      name: the SeqIO task.
      inputs: source token ids, one int32 array an example.
      targets: target token ids, one int32 array an example.
      rows: all features of every example, for postprocessors; of a split that several processes
        have read together, the tokens alone.
    """

    name: str
    inputs: list[np.ndarray]
    targets: list[np.ndarray]
    rows: list[dict[str, Any]]


def import_tasks(module: str, flag: str = "--gin.MIXTURE_OR_TASK_MODULE") -> Any:
    """Imports the module that registers tasks; `flag` is what named it.

    Raises:
      InputError: when it cannot be imported, or refuses its own settings with a ValueError.
    """
    import_seqio()
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise InputError(f"Cannot import {module!r} ({e}); change {flag}.") from e
    except ValueError as e:
        raise InputError(f"Importing {module!r}: {e}") from e


def get_provider(
    name: str,
    module: str | None = None,
    remedy: str = "Change --gin.MIXTURE_OR_TASK_NAME, or name the module that registers it with "
    "--gin.MIXTURE_OR_TASK_MODULE.",
) -> Any:
    """Returns the SeqIO task or mixture `name`, after importing `module`.

    Raises:
      InputError: when the module cannot be imported or the name is not registered.
    """
    seqio = import_seqio()
    if module:
        import_tasks(module)
    if tasks := _superglue():
        try:
            tasks.register_by_name(name)
        except ValueError as e:
            raise InputError(f"{name}: {e} {remedy}") from e
    try:
        return seqio.get_mixture_or_task(name)
    except ValueError as e:
        known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
        listed = nearest_names(name, known) or f" Registered: {', '.join(known) or 'none'}."
        raise InputError(f"There is no SeqIO task or mixture {name!r}.{listed} {remedy}") from e


def _superglue() -> Any:
    """`dpt_jax.tasks`, where something has imported it."""
    return sys.modules.get("dpt_jax.tasks")


def few_shot_ids(tasks: Iterable[str]) -> dict[str, list[list[int]]]:
    """The ids of the training examples of those tasks that are few-shot tasks of ours."""
    superglue = _superglue()
    if superglue is None:
        return {}
    drawn = {task: superglue.few_shot_ids(task) for task in tasks}
    return {task: ids for task, ids in drawn.items() if ids is not None}


def get_vocabulary(provider: Any) -> Any:
    """The vocabulary of the provider's inputs and targets, which must be one."""
    features = provider.output_features
    missing = {"inputs", "targets"} - set(features)
    if missing:
        raise InputError(
            f"{provider.name!r} has no feature {sorted(missing)}; an encoder-decoder needs "
            f"'inputs' and 'targets', it has {sorted(features)}."
        )
    if features["inputs"].vocabulary != features["targets"].vocabulary:
        raise InputError(f"{provider.name!r} uses two vocabularies; T5 has one.")
    vocabulary = features["inputs"].vocabulary
    try:
        _ = vocabulary.vocab_size  # Its file is read when it is first needed.
    except Exception as e:
        raise InputError(
            f"The vocabulary of {provider.name!r} cannot be read: {reading.message(e)} Set "
            "DPT_VOCAB to the model's SentencePiece file, where the task reads it."
        ) from e
    return vocabulary


def load_split(
    provider: Any,
    split: str,
    feature_lengths: Mapping[str, int],
    overlength: str = "error",
    together: bool = False,
) -> list[TaskExamples]:
    """Tokenizes a split of a task, or of every task of a mixture, into memory.

    Args:
      provider: SeqIO task or mixture.
      split: `train`, `validation`, ...
      feature_lengths: longest allowed `inputs` and `targets`, in tokens with EOS.
      overlength: what to do with longer examples: `error`, `truncate` or `drop`; the last two
        are counted and logged.
      together: the processes of the run share the work and exchange the tokens, see
        `reading.read_together`; all must call this. Otherwise this process reads everything.

    Raises:
      InputError: for an unknown split, an empty one, or examples that are too long.
    """
    seqio = import_seqio()
    if overlength not in OVERLENGTH:
        raise InputError(f"overlength is {overlength!r}; it takes one of {', '.join(OVERLENGTH)}.")
    tasks = seqio.get_subtasks(provider)
    loaded = []
    for task in tasks:
        check_split(task, split)
        read = reading.read_together if together else reading.read
        rows = read(task, split, None if _cuts(task) else dict(feature_lengths))
        rows = _enforce_lengths(task.name, split, rows, feature_lengths, overlength)
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


def check_split(task: Any, split: str) -> None:
    """Raises InputError when the SeqIO task has no such split."""
    if split not in task.splits:
        raise InputError(
            f"Task {task.name!r} has no split {split!r}; it has {', '.join(task.splits)}."
            f"{nearest_names(split, task.splits)}"
        )


def _enforce_lengths(name, split, rows, feature_lengths, overlength):
    longest = {f: max((len(row[f]) for row in rows), default=0) for f in ("inputs", "targets")}
    too_long = [
        any(len(row[f]) > feature_lengths[f] for f in ("inputs", "targets")) for row in rows
    ]
    if not any(too_long):
        return rows
    found = (
        f"{sum(too_long)} of {len(rows)} examples of {name!r} ({split}) are longer than "
        f"TASK_FEATURE_LENGTHS = {dict(feature_lengths)}; the longest have {longest} tokens"
    )
    if overlength == "error":
        raise InputError(
            f"{found}. Raise --gin.TASK_FEATURE_LENGTHS, or accept the loss with "
            "--gin.OVERLENGTH=\"'truncate'\" or \"'drop'\"."
        )
    if distributed.is_first():
        logging.warning("%s: %s.", found, {"truncate": "cut", "drop": "dropped"}[overlength])
    if overlength == "drop":
        return [row for row, long in zip(rows, too_long, strict=True) if not long]
    return [_truncate(row, feature_lengths) for row in rows]


def _truncate(row, feature_lengths):
    row = dict(row)
    for feature in ("inputs", "targets"):
        tokens, limit = row[feature], feature_lengths[feature]
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


def pad(rows: list[np.ndarray], count: int, length: int) -> np.ndarray:
    """Stacks ragged rows into zero-padded int32 `[count, length]`; missing rows are all zeros."""
    padded = np.zeros((count, length), np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def round_up(n: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `n`."""
    return -(-n // multiple) * multiple


@dataclasses.dataclass
class TrainData:
    """The training split with its buckets and its schedule of batches.

    Attributes:
      tasks: the examples, task by task.
      buckets: padded source lengths.
      target_length: padded target length, the same for all batches.
      schedule: which examples each step takes.
    """

    tasks: list[TaskExamples]
    buckets: tuple[int, ...]
    target_length: int
    schedule: Schedule

    @classmethod
    def create(
        cls,
        tasks: list[TaskExamples],
        rates: list[float],
        batch_size: int,
        seed: int,
        num_buckets: int,
    ) -> "TrainData":
        """Chooses buckets for the examples and lays out the order of training."""
        lengths = np.asarray([len(x) for task in tasks for x in task.inputs])
        buckets = choose_buckets(lengths, num_buckets)
        longest_target = max(len(x) for task in tasks for x in task.targets)
        sampler = Sampler(tuple(len(task.inputs) for task in tasks), tuple(rates), seed)
        schedule = Schedule(sampler, np.searchsorted(buckets, lengths), batch_size)
        return cls(tasks, buckets, round_up(longest_target, 8), schedule)

    def batches(
        self, first_step: int, rows: np.ndarray | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the batches of steps `first_step`, `first_step + 1`, ... without end.

        With `rows`, ascending, those rows of each batch alone: a process's share.
        """
        inputs = [x for task in self.tasks for x in task.inputs]
        targets = [x for task in self.tasks for x in task.targets]
        rows = np.arange(self.schedule.batch_size) if rows is None else rows
        epoch, skip = divmod(first_step, self.schedule.steps_per_epoch)
        while True:
            for bucket, indices in self.schedule.epoch(epoch)[skip:]:
                # An epoch's last batch may be short; rows beyond its end are padding.
                chosen = indices[rows[rows < len(indices)]]
                yield make_batch(
                    [inputs[i] for i in chosen],
                    [targets[i] for i in chosen],
                    len(rows),
                    self.buckets[bucket],
                    self.target_length,
                )
            epoch, skip = epoch + 1, 0


def make_batch(
    inputs: list[np.ndarray],
    targets: list[np.ndarray],
    batch_size: int,
    source_length: int,
    target_length: int,
) -> dict[str, np.ndarray]:
    """The model's arrays for a batch, int32 `[batch_size, ...]`, padded with zeros."""
    target = pad(targets, batch_size, target_length)
    return {
        "encoder_input_tokens": pad(inputs, batch_size, source_length),
        # The decoder starts from token 0 and sees the target one position late.
        "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": target,
    }


def evaluation_batches(
    inputs: list[np.ndarray], batch_size: int, num_buckets: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(indices, encoder_input_tokens)` pairs that cover every example once, the longest first.

    Sorted by length, and only the batch of the shortest may be short: the least padding there is.
    Its rows beyond `len(indices)` are padding. Batches are padded to at most `num_buckets` lengths.
    """
    lengths = np.asarray([len(x) for x in inputs])
    order = np.argsort(-lengths, kind="stable")
    plan = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    longest = lengths[[indices[0] for indices in plan]]
    buckets = choose_buckets(longest, num_buckets)
    return [
        (indices, pad([inputs[i] for i in indices], batch_size, buckets[bucket]))
        for indices, bucket in zip(plan, np.searchsorted(buckets, longest), strict=True)
    ]
