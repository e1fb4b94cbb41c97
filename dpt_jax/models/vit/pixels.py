"""Pixels as a vision transformer takes them."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def normalize(
    pixels: Any, mean: Sequence[float] | float, std: Sequence[float] | float
) -> Float[Array, "... channels"]:
    """Pixels from 0 to 255 as `(pixels / 255 - mean) / std`, float32.

    Args:
      pixels: `[..., channels]`, uint8.
      mean: of each channel, or of all.
      std: likewise.
    """
    scaled = jnp.asarray(pixels, jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
