"""A tensor that is known before it is read.

Every format is opened as a table of these, so that names, shapes and dtypes can be checked before
anything large is read, and a conversion can go through a model one parameter at a time.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from dpt_jax.errors import SETTING, InputError

BFLOAT16 = np.dtype(jnp.bfloat16)


# On a CPU, JAX uses an array where it lies if it starts at a multiple of this many bytes.
ALIGNMENT = 64


_BLOCK_BYTES = 64 * 2**20


_KEPT_DTYPES = (np.dtype(np.float32), BFLOAT16)


_WIDENED_DTYPES = (np.dtype(np.float16), np.dtype(np.float64))


# Nested dicts of parameters, or of anything that there is one of for each of them.
Params = dict[str, Any]
Shape = tuple[int, ...]


# A rectangle of an array: a slice per axis, with a start, a stop and no step.
Region = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A stored array: its shape and dtype, and a function that reads it.

    Attributes:
      shape: the array's shape.
      dtype: the dtype it is read in.
      source: returns the array in the dtype that it is stored in; often a read-only view of a file.
      release: tells the system that the file's pages are not needed in memory any more. What reads
        a large model must call it: pages of a mapped file count as the process's own memory.
      read_region: reads a region in the stored dtype, where `source` would read the whole array.
    """

    shape: Shape
    dtype: np.dtype
    source: Callable[[], np.ndarray]
    release: Callable[[], None] = lambda: None
    read_region: Callable[[Region], np.ndarray] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the array in `dtype`."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The whole array; a view of the file where it is stored in `dtype`."""
        return self.source().astype(self.dtype, copy=False)

    def stored(self, region: Region) -> np.ndarray:
        """A region of the array in the dtype that it is stored in; often a view of a file."""
        if self.read_region is not None:
            return self.read_region(region)
        return self.source()[region]

    def blocks(self) -> Iterator[np.ndarray]:
        """The array's rows in order, in contiguous pieces of about 64 MB, cast to `dtype`."""
        array = np.atleast_1d(self.source())
        rows = max(1, _BLOCK_BYTES * len(array) // max(1, array.nbytes))
        for start in range(0, len(array), rows):
            yield np.ascontiguousarray(array[start : start + rows], self.dtype)
            self.release()

    def load(self) -> np.ndarray:
        """The array as JAX on a CPU uses it without a copy: contiguous, aligned, in `dtype`.

        A view of the file where the file has it so. Otherwise a copy, and the file's pages are let
        go, so that the two are never in memory together for more than one parameter.
        """
        array = self.source()
        usable = as_used(array, self.dtype)
        if usable is not array:
            self.release()
        return usable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """`load`, for NumPy and JAX."""
        array = self.load()
        return array.copy() if copy else array.astype(dtype or array.dtype, copy=False)

    def transposed(self) -> "Tensor":
        """The same tensor with its axes reversed."""
        read_region = self.read_region
        return dataclasses.replace(
            self,
            shape=self.shape[::-1],
            source=lambda: self.source().T,
            read_region=read_region and (lambda region: read_region(region[::-1]).T),
        )

    def as_dtype(self, dtype: np.dtype | str) -> "Tensor":
        """The same tensor, cast while it is read."""
        return dataclasses.replace(self, dtype=np.dtype(dtype))

    def as_weight(self, where: str) -> "Tensor":
        """The tensor in a dtype the network takes: float32 or bfloat16 as it is, else float32.

        Raises:
          InputError: the dtype is not a floating one; `where` names the tensor in the message.
        """
        if self.dtype in _KEPT_DTYPES:
            return self
        if self.dtype in _WIDENED_DTYPES:
            return self.as_dtype(np.dtype(np.float32))
        raise InputError(
            f"{where} is stored as {self.dtype.name}; weights may be float32, bfloat16, float16 "
            f"or float64. Change {SETTING}."
        )


def as_used(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array as JAX on a CPU uses it without a copy: contiguous, aligned, in `dtype`.

    Itself where it is so already, otherwise a copy.
    """
    if array.dtype == dtype and array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, dtype)
    copy[...] = array
    return copy


def aligned_empty(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An uninitialized array that starts at a multiple of `ALIGNMENT` bytes."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def in_memory(array: Any) -> Tensor:
    """Wraps an array (NumPy or JAX) that is in memory already."""
    return Tensor(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))


def fingerprint(params: Params) -> int:
    """A checksum that tells one backbone from another: names, shapes and first values."""
    crc = 0
    for name, value in sorted(flatten_dict(params, sep="/").items()):
        tensor = value if isinstance(value, Tensor) else in_memory(value)
        crc = zlib.crc32(f"{name}{tensor.shape}".encode() + _head(tensor).tobytes(), crc)
    return crc


def _head(tensor: Tensor, count: int = 256) -> np.ndarray:
    """The first `count` values, float32; no more is read than the rows they lie in."""
    region, needed = [], count
    for axis, size in enumerate(tensor.shape):
        inner = math.prod(tensor.shape[axis + 1 :])
        region.append(slice(0, min(size, -(-needed // max(inner, 1)))))
        needed = min(needed, inner)
    head = tensor.stored(tuple(region)).astype(tensor.dtype).reshape(-1)[:count]
    tensor.release()
    return head.astype(np.float32)
