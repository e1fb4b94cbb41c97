"""Putting parameters on their devices, slice by slice, so that no host ever holds a model whole."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding

from dpt_jax.tensors import Params, Tensor, as_used, in_memory


def place(params: Params, shardings: Params, dtype: Any = None) -> Params:
    """Puts parameters on their devices, floats cast to `dtype` where it is given.

    Args:
      params: nested dicts of tensors or arrays.
      shardings: the same of their shardings.
      dtype: a floating dtype; None keeps each parameter's own.
    """
    where = flatten_dict(shardings, sep="/")
    placed = {}
    for name, value in flatten_dict(params, sep="/").items():
        tensor = value if isinstance(value, Tensor) else in_memory(value)
        if dtype is not None:
            tensor = tensor.as_dtype(jnp.dtype(dtype))
        placed[name] = _place(tensor, where[name])
    return unflatten_dict(placed, sep="/")


def _place(tensor: Tensor, sharding: Sharding) -> jax.Array:
    """Reads what this process's devices need of a tensor, once, and gives each its slice.

    On a CPU a slice that lies in a mapped file as it is used stays there, and devices that hold
    the same slice share it. So neither files nor replicas cost memory of their own.
    """
    devices: dict[Any, list[Any]] = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(tensor.shape).items():
        assert index is not None  # Every device of a mesh holds a slice.
        axes = zip(index, tensor.shape, strict=True)
        devices[tuple(part.indices(size)[:2] for part, size in axes)].append(device)
    # The smallest rectangle around all slices.
    bounds = [
        (min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*devices, strict=True)
    ]
    stored = tensor.stored(tuple(slice(first, last) for first, last in bounds))
    pieces, copied = [], False
    for spans, holders in devices.items():
        offsets = zip(spans, bounds, strict=True)
        view = stored[tuple(slice(a - first, b - first) for (a, b), (first, _) in offsets)]
        piece = as_used(view, tensor.dtype)
        copied |= piece is not view or holders[0].platform != "cpu"
        pieces += [jax.device_put(piece, device) for device in holders]
    # Otherwise slices on their way to the devices would pile up in memory.
    jax.block_until_ready(pieces)
    if copied:
        tensor.release()
    return jax.make_array_from_single_device_arrays(tensor.shape, sharding, pieces)


def is_frozen_dtype(name: Any) -> bool:
    """Whether frozen parameters may be stored in a dtype, or the dtype of a name."""
    try:
        return jnp.dtype(name) in (jnp.bfloat16, jnp.float32)
    except TypeError:
        return False
