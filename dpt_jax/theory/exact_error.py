"""The exact test error where the prompt is known and the head is found by least squares.

The paper has such a result (Oymak et al., 2023); its text was not at hand. The formula here is
derived by this project, for the core model with orthogonal q* and w*, as d, n and T grow.
"""

import math

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dpt_jax.errors import InputError


def predicted_error(signal: float, ratio: float) -> float:
    """The error Φc(r² √(κ-1) / √(κ r² + 1)).

    Args:
      signal: r, signal to noise of what the query reads: `population.signal_to_noise`.
      ratio: κ = n / d, above 1; infinite gives Φc(r).

    Raises:
      InputError: for fewer examples than dimensions.
    """
    if not ratio > 1:
        raise InputError(f"n/d is {ratio:g}; least squares needs more examples than dimensions.")
    if math.isinf(ratio):
        return float(norm.sf(signal))
    return float(norm.sf(signal**2 * math.sqrt(ratio - 1) / math.sqrt(ratio * signal**2 + 1)))


def least_squares_head(read: Float[Array, "n d"], labels: Float[Array, "n"]) -> Float[Array, "d"]:
    """The w that minimizes Σ (y - wᵀu)², by a QR decomposition."""
    q, r = jnp.linalg.qr(read)
    return jnp.linalg.solve(r, q.T @ labels)
