"""Which training rows a few-shot task keeps: a function of the task, k, the seed and the ids."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

from dpt_jax.tasks.errors import TaskError


@dataclasses.dataclass(frozen=True)
class Shots:
    """How many training rows are drawn, and which draw it is."""

    k: int
    seed: int

    def __post_init__(self):
        for name, value, least in (("k", self.k, 1), ("seed", self.seed, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TaskError(
                    f"The few-shot {name} is {value!r}; it must be an integer from {least}."
                )


def draw(benchmark: str, ids: Iterable[Sequence[int]], shots: Shots) -> list[list[int]]:
    """Draws `k` of the rows at random, without balancing their labels.

    The rows are put in the order of a hash of task, seed and id, and the first `k` are taken. So
    neither the order of the rows nor a library's random numbers matter, and for the same seed a
    larger draw contains the smaller.

    Args:
      benchmark: the task's short name; both text formats draw the same rows.
      ids: the ids of all training rows.
      shots: how many, and the seed.

    Returns:
      The ids of the drawn rows, sorted.

    Raises:
      TaskError: when there are fewer rows.
    """

    def order(idx: Sequence[int]) -> bytes:
        key = " ".join(map(str, (benchmark, shots.seed, *idx)))
        return hashlib.sha256(key.encode()).digest()

    rows = sorted(ids, key=order)
    if len(rows) < shots.k:
        raise TaskError(
            f"k = {shots.k} examples of {benchmark} cannot be drawn: its training set has only "
            f"{len(rows)}."
        )
    return sorted(list(idx) for idx in rows[: shots.k])
