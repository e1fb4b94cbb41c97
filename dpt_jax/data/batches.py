"""Examples as the padded NumPy arrays of a batch, for training and for evaluation."""

import dataclasses

import numpy as np

from dpt_jax.data.batching import Sampler, Schedule, choose_buckets
from dpt_jax.data.examples import TaskExamples


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
      told: what else to say of it to people.
    """

    tasks: list[TaskExamples]
    buckets: tuple[int, ...]
    target_length: int
    schedule: Schedule
    told: str = ""

    def __post_init__(self) -> None:
        self._inputs = [x for task in self.tasks for x in task.inputs]
        self._targets = [x for task in self.tasks for x in task.targets]
        # The order of the epoch that was asked for last.
        self._epochs: dict[int, list[tuple[int, np.ndarray]]] = {}

    @classmethod
    def create(
        cls,
        tasks: list[TaskExamples],
        rates: list[float],
        batch_size: int,
        seed: int,
        num_buckets: int,
        balanced: bool = False,
    ) -> "TrainData":
        """Chooses buckets for the examples and lays out the order of training.

        Args:
          tasks: the examples, task by task.
          rates: sampling rates of the tasks, in any unit.
          batch_size: rows of a batch.
          seed: of the order.
          num_buckets: padded source lengths at most.
          balanced: give every batch the targets' shares. Where most targets occur once, as those of
            translation, that means nothing, and batches are random.
        """
        lengths = np.asarray([len(x) for task in tasks for x in task.inputs])
        buckets = choose_buckets(lengths, num_buckets)
        longest_target = max(len(x) for task in tasks for x in task.targets)
        sampler = Sampler(tuple(len(task.inputs) for task in tasks), tuple(rates), seed)
        groups = _targets(tasks) if balanced else None
        schedule = Schedule(sampler, np.searchsorted(buckets, lengths), batch_size, groups)
        told = ""
        if balanced:
            told = ", batches not balanced: most targets occur once"
            if groups is not None:
                told = f", batches balanced by {groups.max() + 1:,} targets"
        return cls(tasks, buckets, round_up(longest_target, 8), schedule, told)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        return self.schedule.steps_per_epoch

    @property
    def blanks(self) -> list[dict[str, np.ndarray]]:
        """Batches of padding, one of every shape that there is."""
        rows = self.schedule.batch_size
        return [make_batch([], [], rows, source, self.target_length) for source in self.buckets]

    def batch(self, step: int, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The batch of an update, a function of the seed and of the updates made before.

        With `rows`, ascending, those rows of it alone: a process's share.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            self._epochs = {epoch: self.schedule.epoch(epoch)}
        bucket, indices = self._epochs[epoch][place]
        rows = np.arange(self.schedule.batch_size) if rows is None else rows
        # An epoch's last batch may be short; rows beyond its end are padding.
        chosen = indices[rows[rows < len(indices)]]
        return make_batch(
            [self._inputs[i] for i in chosen],
            [self._targets[i] for i in chosen],
            len(rows),
            self.buckets[bucket],
            self.target_length,
        )

    def describe(self) -> str:
        """The numbers that people want to see before a run starts."""
        return (
            f"{len(self._inputs):,} examples, {self.steps_per_epoch:,} steps per epoch, source "
            f"buckets {', '.join(map(str, self.buckets))}, target length {self.target_length}"
            f"{self.told}"
        )


def _targets(tasks: list[TaskExamples]) -> np.ndarray | None:
    """A number for each example's target, by task and tokens; None where most occur once."""
    names = [(i, tuple(x.tolist())) for i, task in enumerate(tasks) for x in task.targets]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if 2 * len(numbers) > len(names):
        return None
    return np.asarray([numbers[name] for name in names])


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
