"""A tensor that is known before it is read, and the parameters a T5 should have.

Every format is opened as a table of these, so that names, shapes and dtypes can be checked before
anything large is read, and a conversion can go through a model one parameter at a time.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpt_jax.errors import InputError
from dpt_jax.models import T5Config, Transformer

BFLOAT16 = np.dtype(jnp.bfloat16)
# On a CPU, JAX uses an array where it lies if it starts at a multiple of this many bytes.
ALIGNMENT = 64
_BLOCK_BYTES = 64 * 2**20
_KEPT_DTYPES = (np.dtype(np.float32), BFLOAT16)
_WIDENED_DTYPES = (np.dtype(np.float16), np.dtype(np.float64))

Shape = tuple[int, ...]
# A rectangle of an array: a slice an axis, with a start, a stop and no step.
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
            "or float64. Change INITIAL_CHECKPOINT_PATH."
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


@functools.lru_cache(maxsize=32)
def _one_layer_shapes(config: T5Config) -> dict[str, Shape]:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    network = Transformer(config)
    variables = jax.eval_shape(
        lambda key, x: network.init(key, x, x, x, enable_dropout=False), jax.random.key(0), tokens
    )
    return {name: leaf.shape for name, leaf in flatten(variables["params"]).items()}


def parameter_shapes(config: T5Config) -> dict[str, Shape]:
    """Names (joined with "/") and shapes of every parameter of `Transformer(config)`.

    The embedding comes first, then encoder and decoder with their layers in order.
    """
    # All layers of a stack have the same shapes, so that tracing one of each is enough.
    one = _one_layer_shapes(
        dataclasses.replace(
            config, num_encoder_layers=1, num_decoder_layers=1, dtype="float32", dropout_rate=0.0
        )
    )
    shapes = {}
    for stack, layers in (
        ("token_embedder", 0),
        ("encoder", config.num_encoder_layers),
        ("decoder", config.num_decoder_layers),
    ):
        names = [name for name in one if name.split("/")[0] == stack]
        layer_names = [name for name in names if name.startswith(f"{stack}/layers_0/")]
        shapes.update({name: one[name] for name in names if name not in layer_names})
        for i in range(layers):
            for name in layer_names:
                shapes[name.replace("/layers_0/", f"/layers_{i}/")] = one[name]
    return shapes


def check_parameters(
    path: str, found: Mapping[str, Shape], config: T5Config, configured_by: str, remedy: str
) -> None:
    """Checks that the stored parameters are those of `Transformer(config)`.

    Args:
      path: where they are stored, for the message.
      found: names and shapes.
      config: the network they are meant for.
      configured_by: what states `config`, for the message: "the model file", "config.json".
      remedy: the sentence that says what to change.

    Raises:
      InputError: names the first parameter that is missing, of another shape, or unknown.
    """
    wanted = parameter_shapes(config)
    names = [*wanted, *(name for name in found if name not in wanted)]
    for name in names:
        here, there = found.get(name), wanted.get(name)
        if here == there:
            continue
        stored = f"has shape {here}" if here is not None else "is missing"
        asked = f"asks for {there}" if there is not None else "has no such parameter"
        raise InputError(
            f"{path}: parameter {name} {stored}, but {configured_by} {asked}. {remedy}"
        )


def check_both_stacks(where: object, stacks: Collection[str]) -> None:
    """Raises InputError where a model is half a T5: `stacks` lacks "encoder" or "decoder"."""
    missing = [stack for stack in ("encoder", "decoder") if stack not in stacks]
    if missing:
        raise InputError(
            f"{where} holds no {' and no '.join(missing)}; a whole T5, encoder and decoder, is "
            "needed. Change INITIAL_CHECKPOINT_PATH."
        )


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts to one dict whose names are joined with "/"."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{name}": leaf for name, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree
