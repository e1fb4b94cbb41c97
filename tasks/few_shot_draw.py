"""Which training rows a drawn task keeps: a function of the task, the amount, the seed and the ids.

The rows are put in the order of a hash of task, seed and id. A draw takes the first of them, and
the last tenth are held out, to choose settings by. So neither the order of the rows nor a library's
random numbers matter, and for the same seed a larger draw contains the smaller, and every draw has
the same rows held out from it.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

from dpt_jax.tasks.errors import TaskError

# The split of the rows that are held out.
HELD_OUT = "heldout"


@dataclasses.dataclass(frozen=True)
class Shots:
    """How many training rows are drawn, and which draw it is."""

    k: int
    seed: int

    def __post_init__(self):
        _require_integer("k", self.k, 1)
        _require_integer("seed", self.seed, 0)

    def __str__(self) -> str:
        return f"k{self.k}_s{self.seed}"

    def count(self, rows: int) -> int:
        """How many of so many training rows are drawn."""
        return self.k


@dataclasses.dataclass(frozen=True)
class Share:
    """How many percent of the training rows are drawn of those not held out, and which draw."""

    percent: int
    seed: int

    def __post_init__(self):
        _require_integer("percent", self.percent, 1)
        _require_integer("seed", self.seed, 0)
        if self.percent > 100:
            raise TaskError(f"The share of the training rows is {self.percent} %, more than all.")

    def __str__(self) -> str:
        return f"p{self.percent}_s{self.seed}"

    def count(self, rows: int) -> int:
        """How many of so many training rows are drawn, at least one."""
        return max(1, round((rows - held_out_count(rows)) * self.percent / 100))


def _require_integer(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise TaskError(f"The few-shot {name} is {value!r}; it must be an integer from {least}.")


def draw(benchmark: str, ids: Iterable[Sequence[int]], shots: Shots | Share) -> list[list[int]]:
    """Draws some of the rows at random, without balancing their labels.

    Args:
      benchmark: the task's short name; both text formats draw the same rows.
      ids: the ids of all training rows.
      shots: how many, and the seed.

    Returns:
      The ids of the drawn rows, sorted.

    Raises:
      TaskError: when there are fewer rows.
    """
    rows = _ordered(benchmark, ids, shots.seed)
    count = shots.count(len(rows))
    if len(rows) < count:
        raise TaskError(
            f"k = {count} examples of {benchmark} cannot be drawn: its training set has only "
            f"{len(rows)}."
        )
    return sorted(list(idx) for idx in rows[:count])


def held_out_count(rows: int) -> int:
    """How many of so many training rows are held out: a tenth."""
    return rows // 10


def held_out(benchmark: str, ids: Iterable[Sequence[int]], shots: Shots | Share) -> list[list[int]]:
    """The rows that are held out from a draw; arguments and result are those of `draw`.

    Raises:
      TaskError: when the draw has left none, or some of them are in it.
    """
    rows = _ordered(benchmark, ids, shots.seed)
    left = len(rows) - held_out_count(len(rows))
    if left < shots.count(len(rows)) or left == len(rows):
        raise TaskError(
            f"{benchmark} has {len(rows)} training rows, too few to hold a tenth of them out from "
            f"a draw of {shots.count(len(rows))}."
        )
    return sorted(list(idx) for idx in rows[left:])


def _ordered(benchmark: str, ids: Iterable[Sequence[int]], seed: int) -> list[Sequence[int]]:
    def order(idx: Sequence[int]) -> bytes:
        return hashlib.sha256(" ".join(map(str, (benchmark, seed, *idx))).encode()).digest()

    return sorted(ids, key=order)
