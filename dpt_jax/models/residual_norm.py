"""How large the residual stream of a frozen T5's encoder becomes: one number, measured."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from dpt_jax.errors import InputError
from dpt_jax.models.config import T5Config
from dpt_jax.models.layers import RelativePositionBiases
from dpt_jax.models.stacks import EncoderLayer

_ROWS, _LENGTH, _END = 8, 64, 1
# Padding, end and unknown come before the pieces.
_SPECIAL_IDS = 3


def residual_norm(
    config: T5Config,
    params: Mapping[str, Any],
    tokens: Int32[np.ndarray, "rows length"] | None = None,
    read: Callable[[Any], np.ndarray] = np.asarray,
) -> float:
    """The mean norm of a position after the encoder's last layer, before the final norm.

    A soft prompt has to hold its own among such positions: rows that are much smaller are
    overwritten by what the frozen layers add to them. The number is computed in float32, whatever
    `config.dtype` is, a layer at a time, so that one layer's weights are in memory, and rounded to
    three digits, so that no device's rounding shows.

    Args:
      config: the T5's sizes.
      params: its parameters, T5X's names. Those of the decoder are not read.
      tokens: text, 0 is padding; None is `sample_tokens`, where there is none yet. On text that
        makes sense the norm may be half as large again.
      read: gives a parameter as an array in this host's memory.

    Raises:
      InputError: when the norm is 0 or not finite, so that no prompt can start there.
    """
    config = dataclasses.replace(config, dtype=jnp.float32, remat_policy="none", attention="plain")
    if tokens is None:
        tokens = sample_tokens(config.vocab_size)
    seen = tokens > 0
    x = jnp.asarray(read(params["token_embedder"]["embedding"])[tokens], jnp.float32)
    encoder = params["encoder"]

    def arrays(part: Mapping[str, Any]) -> Any:
        return jax.tree.map(lambda value: read(value).astype(np.float32), dict(part))

    @functools.cache
    def bias_of(holder: str | None) -> jax.Array:
        own = encoder["relpos_bias"] if holder is None else encoder[holder]["relpos_bias"]
        module = RelativePositionBiases(config.num_heads, bidirectional=True)
        return module.apply({"params": arrays(own)}, tokens.shape[1])  # type: ignore[return-value]

    @jax.jit
    def apply(layer, x, bias):
        return EncoderLayer(config).apply({"params": layer}, x, seen, bias, True, seen)

    with jax.default_matmul_precision("highest"):
        for i in range(config.num_encoder_layers):
            name = f"layers_{i}"
            bias = bias_of(name if config.relpos_bias_per_layer else None)
            x = apply(arrays(encoder[name]), x, bias)
    norm = float(np.linalg.norm(np.asarray(x), axis=-1)[seen].mean())
    if not (math.isfinite(norm) and norm > 0):
        raise InputError(
            f"The encoder's residual stream has the norm {norm}; a prompt cannot start there. "
            "Change INITIAL_CHECKPOINT_PATH, or use a prompt gin file without _measured."
        )
    return float(f"{norm:.3g}")


def sample_tokens(vocab_size: int) -> Int32[np.ndarray, "rows length"]:
    """Rows of text as far as frequencies go: Zipf's law over the vocabulary's order, then an end.

    The pieces of a SentencePiece vocabulary are in the order of their frequency. The same rows for
    every vocabulary of that size.
    """
    if vocab_size <= _SPECIAL_IDS:
        raise InputError(f"T5Config.vocab_size is {vocab_size}; it has no pieces.")
    uniform = np.random.default_rng(0).random((_ROWS, _LENGTH))
    ranks = np.floor((vocab_size - _SPECIAL_IDS + 1) ** uniform).astype(np.int32)
    tokens = _SPECIAL_IDS - 1 + ranks
    tokens[:, -1] = _END
    return tokens
