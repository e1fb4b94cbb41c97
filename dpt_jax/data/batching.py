"""Which examples go into which batch, at which padded length. NumPy only, pure functions.

Examples of a task differ in length by a factor of ten. Padding each batch to the longest example
wastes most of the work; padding each batch to its own longest makes XLA compile one program per
batch. So sources go into a few length buckets, chosen to waste the least, and a batch holds
examples of one bucket. Every step's batch is a function of (seed, step), which is all that a
checkpoint has to remember.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


def choose_buckets(
    lengths: Sequence[int] | np.ndarray, max_buckets: int, multiple: int = 8
) -> tuple[int, ...]:
    """The at most `max_buckets` padded lengths that waste the fewest tokens on `lengths`.

    Exact, by dynamic programming over the distinct lengths rounded up to `multiple`.

    Args:
      lengths: token counts of the examples.
      max_buckets: programs to compile at most.
      multiple: every bucket is a multiple of this; 8 rows is a TPU tile.

    Returns:
      Increasing bucket lengths; the last one holds the longest example.
    """
    if max_buckets < 1:
        raise ValueError(f"max_buckets must be at least 1, not {max_buckets}.")
    rounded = -(-np.maximum(np.asarray(lengths), 1) // multiple) * multiple
    sizes, counts = np.unique(rounded, return_counts=True)
    n = len(sizes)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[k][j]: fewest padded tokens for the j shortest sizes in k buckets.
    cost = np.full((max_buckets + 1, n + 1), np.inf)
    cost[:, 0] = 0
    start = np.zeros((max_buckets + 1, n + 1), int)
    for k in range(1, max_buckets + 1):
        for j in range(1, n + 1):
            options = cost[k - 1, :j] + (below[j] - below[:j]) * sizes[j - 1]
            start[k, j] = int(np.argmin(options))
            cost[k, j] = options[start[k, j]]
    buckets, j = [], n
    for k in range(max_buckets, 0, -1):
        if j == 0:
            break
        buckets.append(int(sizes[j - 1]))
        j = start[k, j]
    return tuple(sorted(buckets))


def plan_batches(
    bucket_ids: np.ndarray, order: np.ndarray, batch_size: int
) -> list[tuple[int, np.ndarray]]:
    """Cuts examples into batches of one bucket each, every example exactly once.

    What is left over of a bucket joins the next longer one, so that all batches are full but the
    last: there are always `ceil(len(order) / batch_size)` of them.

    Args:
      bucket_ids: bucket of every example, 0 is the shortest.
      order: the examples' indices, in the order in which they are to be used.
      batch_size: rows of a batch.

    Returns:
      `(bucket, indices)` pairs, buckets ascending.
    """
    batches = []
    carried = np.zeros(0, order.dtype)
    last = int(bucket_ids[order].max())
    for bucket in range(last + 1):
        pool = np.concatenate([carried, order[bucket_ids[order] == bucket]])
        full = len(pool) // batch_size * batch_size
        batches += [(bucket, pool[i : i + batch_size]) for i in range(0, full, batch_size)]
        carried = pool[full:]
    if len(carried):
        batches.append((last, carried))
    return batches


def spread_evenly(order: np.ndarray, groups: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Reorders examples so that those of each group are evenly spaced.

    Of any stretch of the result, each group has its share, give or take one. The members of a group
    stay in the order in which they are given, from a random place of the group's own on.

    Args:
      order: the examples' indices, in the order in which they are to be used.
      groups: `[examples]`, the group of every example.
      seed: of the groups' first places.

    Returns:
      The same indices.
    """
    found, group_of, sizes = np.unique(groups[order], return_inverse=True, return_counts=True)
    places = np.zeros(len(order))
    first = np.random.default_rng(seed).random(len(found))
    for group, size in enumerate(sizes):
        places[group_of == group] = (np.arange(size) + first[group]) / size
    return order[np.argsort(places, kind="stable")]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The order in which training visits examples of one or several tasks.

    An epoch draws as many examples as there are. For one task that is each example once. For a
    mixture each task gets its share by rate, and goes through its own examples once before any
    comes again, from epoch to epoch.

    Attributes:
      sizes: number of examples per task.
      rates: sampling rates of the tasks, in any unit.
      seed: of all shuffling.
    """

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    seed: int

    def shares(self) -> np.ndarray:
        """Examples of each task in an epoch (largest remainders make them sum to the total)."""
        total = sum(self.sizes)
        exact = np.asarray(self.rates, float) / sum(self.rates) * total
        shares = np.floor(exact).astype(int)
        for task in np.argsort(shares - exact, kind="stable")[: total - shares.sum()]:
            shares[task] += 1
        return shares

    def epoch(self, epoch: int) -> np.ndarray:
        """Indices of the epoch's examples, counted through all tasks, in shuffled order."""
        drawn, offset = [], 0
        for task, (size, share) in enumerate(zip(self.sizes, self.shares(), strict=True)):
            first = epoch * int(share)
            positions = np.arange(first, first + int(share))
            for pass_ in np.unique(positions // size):
                shuffled = np.random.default_rng([self.seed, 0, task, int(pass_)]).permutation(size)
                drawn.append(offset + shuffled[positions[positions // size == pass_] % size])
            offset += size
        order = np.concatenate(drawn)
        np.random.default_rng([self.seed, 1, epoch]).shuffle(order)
        return order


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which batch each training step takes.

    Attributes:
      sampler: order of the examples.
      bucket_ids: `[examples]`, bucket of every example.
      batch_size: rows of a batch.
      targets: `[examples]`, a number for each example's target, where batches are to be balanced:
        each then has the targets' shares of its bucket, give or take one. None for random batches.
    """

    sampler: Sampler
    bucket_ids: np.ndarray
    batch_size: int
    targets: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        return -(-sum(self.sampler.sizes) // self.batch_size)

    def epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """The epoch's batches as `(bucket, indices)`, in the order of its steps."""
        order = self.sampler.epoch(epoch)
        if self.targets is not None:
            groups = self.targets * (self.bucket_ids.max() + 1) + self.bucket_ids
            order = spread_evenly(order, groups, [self.sampler.seed, 3, epoch])
        batches = plan_batches(self.bucket_ids, order, self.batch_size)
        np.random.default_rng([self.sampler.seed, 2, epoch]).shuffle(batches)
        return batches
