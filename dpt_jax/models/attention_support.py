"""Which attention a device has, asked before a run begins."""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from dpt_jax.errors import InputError
from dpt_jax.models import attention, kernel_sizes
from dpt_jax.models.config import ATTENTIONS, T5Config

# Those that are one platform's alone; the others run everywhere.
_PLATFORM = {"pallas": "tpu", "cudnn": "gpu"}


def with_attention(config: T5Config, device: Any, length: int) -> T5Config:
    """The configuration with an attention that a device has.

    Where `auto` would take a kernel, it is compiled once by itself. One that fails is left out for
    `plain`, with a warning.

    Args:
      config: the model.
      device: what it runs on, or is compiled for.
      length: positions of the longest source, the prompt included.

    Raises:
      InputError: when the attention that the configuration names cannot be had.
    """
    if reason := why_not(config, device.platform, length):
        raise InputError(f"ATTENTION = {config.attention!r} {reason}. Set --gin.ATTENTION.")
    kernel = {platform: name for name, platform in _PLATFORM.items()}.get(device.platform)
    if config.attention != "auto" or kernel is None:
        return config
    if why_not(dataclasses.replace(config, attention=kernel), device.platform, length):
        return config
    sizes = config.num_heads, length, config.head_dim
    if _compiles(kernel, device, config.dtype.name, sizes):
        return config
    return dataclasses.replace(config, attention="plain")


def why_not(config: T5Config, platform: str, length: int = 1) -> str | None:
    """Why a platform, `cpu`, `gpu` or `tpu`, does not have a model's attention; None if it does.

    Args:
      config: the model, which names the attention.
      platform: the devices'.
      length: positions of the longest source, the prompt included.
    """
    name = config.attention
    others = [n for n in ATTENTIONS if _PLATFORM.get(n, platform) == platform and n != name]
    instead = f"there are {', '.join(map(repr, others))}"
    if _PLATFORM.get(name, platform) != platform:
        return f"needs a {_PLATFORM[name].upper()}, and this is a {platform.upper()}: {instead}"
    reason = None
    if name == "pallas":
        reason = kernel_sizes.takes(length, config.head_dim, config.dtype.itemsize)
    elif name == "cudnn":
        reason = attention.cudnn_takes(config.dtype, config.head_dim)
    return reason and f"does not take this model: {reason}; {instead}"


@functools.lru_cache
def _compiles(kernel: str, device: Any, dtype: str, sizes: tuple[int, int, int]) -> bool:
    """Whether a kernel compiles, forward and backward; warns once where it does not."""
    heads, length, kv = sizes
    where = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct((1, heads, length, kv), dtype, sharding=where)
    bias = jax.ShapeDtypeStruct((1, heads, length, length), dtype, sharding=where)
    mask = jax.ShapeDtypeStruct((1, length), bool, sharding=where)
    platform = {"gpu": "cuda"}.get(device.platform, device.platform)

    def loss(queries, keys, values, bias, mask):
        out = attention.attend(queries, keys, values, bias, mask, implementation=kernel)
        return jnp.sum(out, dtype=jnp.float32)

    try:
        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(x, x, x, bias, mask)
        program.lower(lowering_platforms=(platform,)).compile()
    except Exception as e:  # Whatever a compiler of kernels may raise.
        said = str(e).splitlines()[0] if str(e) else repr(e)
        logging.warning("ATTENTION = 'auto' is 'plain' here: %r fails: %s", kernel, said)
        return False
    return True
