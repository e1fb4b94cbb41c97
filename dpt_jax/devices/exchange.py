"""Arrays of any length that each process has a part of, brought together in all of them."""

from collections.abc import Sequence

import numpy as np
from jax.experimental import multihost_utils

# Numbers that a device holds at once, of all processes together: 64 MB.
_AT_ONCE = 2**24


def allgather_rows(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The rows of all processes, in the processes' order; all processes must call it.

    They travel as one flat array and its rows' lengths, over the devices, as everything in JAX.

    Args:
      rows: this process's, int32 `[any length]` each; there may be none.

    Returns:
      Views of one array, int32, the same in every process.
    """
    lengths = _concatenated(np.asarray([len(row) for row in rows], np.int32))
    numbers = _concatenated(np.concatenate([np.zeros(0, np.int32), *rows], dtype=np.int32))
    ends = np.cumsum(lengths)
    return [numbers[end - n : end] for n, end in zip(lengths, ends, strict=True)]


def _concatenated(mine: np.ndarray) -> np.ndarray:
    """Every process's int32 `[any length]`, one after the other."""
    # What is gathered must have one shape everywhere.
    sizes = multihost_utils.process_allgather(np.asarray(len(mine), np.int32)).tolist()
    everything = np.empty(sum(sizes), np.int32)
    firsts = np.cumsum([0, *sizes[:-1]])
    chunk = max(1, min(max(sizes), _AT_ONCE // len(sizes)))
    for start in range(0, max(sizes), chunk):
        piece = np.zeros(chunk, np.int32)
        part = mine[start : start + chunk]
        piece[: len(part)] = part
        gathered = multihost_utils.process_allgather(piece)
        for first, size, theirs in zip(firsts, sizes, gathered, strict=True):
            count = min(chunk, max(0, size - start))
            everything[first + start : first + start + count] = theirs[:count]
    return everything
