"""Prefixes inside T5X's own attention, by Flax's method interception; T5X is not changed.

T5X's attention projects its keys and values with two modules named `key` and `value`. What these
give gets the prefix in front, and the mask and the position bias that the attention is called with
grow by as many columns. The decoder's cache is then as much longer; when it is made, the prefix
becomes its first entries, and the first token is written behind them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array
from t5x.examples.t5 import layers, network

from dpt_jax.models.layers import KeysValues
from dpt_jax.models.prefixed import StackPrefix, prepend

# The stack that an attention of T5X's belongs to, by its name.
_STACKS = {
    "attention": "encoder",
    "self_attention": "decoder",
    "encoder_decoder_attention": "cross",
}


def with_prefixes(prefixes: Mapping[str, StackPrefix | None]) -> Any:
    """A context in which T5X's encoder and decoder attend to prefixes.

    Args:
      prefixes: by stack; a stack without a prefix may be left out.
    """
    return nn.intercept_methods(_Interceptor(prefixes))


class _Interceptor:
    """Stands around every call of a module's method while the context is open."""

    def __init__(self, prefixes: Mapping[str, StackPrefix | None]):
        self._prefixes = {stack: p for stack, p in prefixes.items() if p is not None}
        # The layer that is being called, and the prefix of the attention inside it.
        self._layer = 0
        self._own: KeysValues | None = None
        # Whether it takes a single position, the others being in its cache.
        self._cached = False

    def __call__(
        self,
        call: Callable[..., Any],
        args: Any,
        kwargs: Any,
        context: nn.module.InterceptorContext,
    ) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, network.EncoderLayer | network.DecoderLayer):
            self._layer = int(str(module.name).removeprefix("layers_"))
            self._cached = bool(module.variables.get("cache"))
        elif isinstance(module, layers.RelativePositionBiases):
            return self._position_bias(call, *args, **kwargs)
        elif isinstance(module, layers.MultiHeadDotProductAttention):
            return self._attention(module, call, *args, **kwargs)
        elif self._own is not None and module.name in ("key", "value"):
            return self._in_front(call(*args, **kwargs), module.name)
        return call(*args, **kwargs)

    def _of_layer(self, stack: str) -> StackPrefix | None:
        prefix = self._prefixes.get(stack)
        return prefix if prefix is not None and self._layer < len(prefix.layers) else None

    def _position_bias(
        self, call: Callable[..., Array], query: int, key: int, bidirectional: bool
    ) -> Array:
        """The position bias with the prefix's columns, and rows for them where there is a cache."""
        prefix = self._of_layer("encoder" if bidirectional else "decoder")
        if prefix is None:
            return call(query, key, bidirectional)
        n = prefix.length
        # T5X takes the row of a cached position from the whole matrix.
        first = 0 if self._cached else n
        if prefix.in_front:
            return call(query + n, key + n, bidirectional)[:, :, first:]
        rows = n - first
        return jnp.pad(call(query, key, bidirectional), ((0, 0), (0, 0), (rows, 0), (n, 0)))

    def _attention(
        self,
        module: layers.MultiHeadDotProductAttention,
        call: Callable[..., Array],
        queries: Array,
        memory: Array,
        mask: Array | None = None,
        bias: Array | None = None,
        *,
        decode: bool = False,
        deterministic: bool = False,
    ) -> Array:
        prefix = self._of_layer(_STACKS[str(module.name)])
        if prefix is None:
            return call(queries, memory, mask, bias, decode=decode, deterministic=deterministic)
        if mask is not None:
            in_front = ((0, 0), (0, 0), (0, 0), (prefix.length, 0))
            mask = jnp.pad(mask, in_front, constant_values=1)
        # A step's own key goes into the cache, which holds the prefix already.
        held = decode and self._cached
        self._own = None if held else prefix.layers[self._layer]
        try:
            y = call(queries, memory, mask, bias, decode=decode, deterministic=deterministic)
        finally:
            own, self._own = self._own, None
        if decode and own is not None:
            self._fill_cache(module, own)
        return y

    def _in_front(self, projected: Array, name: str) -> Array:
        assert self._own is not None
        empty = (projected.swapaxes(1, 2),) * 2
        keys, values = prepend(self._own, empty)
        return (keys if name == "key" else values).swapaxes(1, 2)

    def _fill_cache(self, module: nn.Module, own: KeysValues) -> None:
        for name, prefix in zip(("cached_key", "cached_value"), own, strict=True):
            # [batch, heads, head_dim, length], zeros so far.
            cache: Any = module.get_variable("cache", name)
            front = jnp.moveaxis(prefix, 2, 3).astype(cache.dtype)
            front = jnp.repeat(front, cache.shape[0] // front.shape[0], axis=0)
            module.put_variable("cache", name, cache.at[..., : front.shape[3]].set(front))
        module.put_variable("cache", "cache_index", jnp.array(own[0].shape[2], jnp.int32))
