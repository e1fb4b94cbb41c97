"""From a configuration to arrays on devices: the backbone, the prompt, the training state.

A backbone is never held whole by the host: its parameters stay in their files until each is put on
the devices, slice by slice.
"""

import collections
import contextlib
import logging
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding

from dpt_jax.data.tasks import get_provider, get_vocabulary
from dpt_jax.data.vocabularies import check_vocabulary
from dpt_jax.devices import agreement
from dpt_jax.errors import InputError
from dpt_jax.interop import open_backbone
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prompts import SoftPrompt, bind_vocabulary
from dpt_jax.tensors import Tensor, as_used, in_memory
from dpt_jax.training.config import RunConfig
from dpt_jax.training.state import Params


def open_frozen(path: str | None, config: T5Config, seed: int, cache: str | None = None) -> Params:
    """The backbone's parameters as tensors that are not read yet; random ones for `path` None.

    With `cache`, a model in another format than ours is kept converted in that folder.
    """
    if path is None:
        logging.warning("INITIAL_CHECKPOINT_PATH is None: the backbone has random weights.")
        tokens = jnp.zeros((1, 8), jnp.int32)
        init = jax.jit(lambda key: Transformer(config).init(key, tokens, tokens, tokens))
        return jax.tree.map(in_memory, init(jax.random.key(seed))["params"])
    with agreement.main_process_first() if cache else contextlib.nullcontext():
        return unflatten_dict(open_backbone(path, config, cache).tensors, sep="/")


def frozen_of(config: RunConfig) -> Params:
    """The backbone that a configuration names, as `open_frozen` gives it."""
    return open_frozen(
        config.initial_checkpoint_path,
        config.model,
        config.random_seed,
        config.converted_checkpoint_cache,
    )


def open_task(config: RunConfig) -> tuple[Any, Any]:
    """The SeqIO task or mixture that a configuration names, and its vocabulary.

    Raises:
      InputError: when there is no such task, or its vocabulary is not that of the model.
    """
    provider = get_provider(config.mixture_or_task_name, config.mixture_or_task_module)
    vocabulary = get_vocabulary(provider)
    check_vocabulary(vocabulary, config.model, provider.name, config.initial_checkpoint_path)
    return provider, vocabulary


def init_prompt(prompt: SoftPrompt, backbone: Params, vocabulary: Any, seed: int) -> Params:
    """Draws the prompt's first parameters; an initializer may read the backbone's embeddings.

    Raises:
      InputError: when an initializer cannot serve this prompt, as a file of another width.
    """
    embedding = backbone["token_embedder"]["embedding"]
    try:
        bound = bind_vocabulary(prompt, embedding, vocabulary.encode)
        return bound.initialize(jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"prompt")))
    except (ValueError, OSError) as e:
        remedy = (
            "" if "PROMPT" in str(e) else " Set --gin.PROMPT_FILE or use another prompt gin file."
        )
        raise InputError(f"The prompt cannot be initialized: {e}{remedy}") from e


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
