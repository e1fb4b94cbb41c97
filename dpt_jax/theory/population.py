"""What the three steps come to with many examples or many tokens, and how far off n examples are.

All of this is derived by this project from the model, and tested against draws. Unless something
else is said it is for the core model with orthogonal q* and w* and the squared loss. Q and W are
the lengths of q* and w*, ζ the share of relevant tokens, σ the noise.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dpt_jax.theory.contextual_mixture import ContextualMixture


class Scales(NamedTuple):
    """The numbers that predictions depend on.

    Attributes:
      context: Q.
      head: W.
      share: ζ.
      noise: σ.
      length: T.
    """

    context: float
    head: float
    share: float
    noise: float
    length: int

    @property
    def signal(self) -> float:
        """r0² = ζ² T W² / ((1-ζ) σ²), signal to noise of the mean token, squared."""
        return self.share**2 * self.length * self.head**2 / ((1 - self.share) * self.noise**2)


def scales_of(mixture: ContextualMixture) -> Scales:
    """The scales of a mixture, whose core is meant."""
    context, head = (float(jnp.linalg.norm(v)) for v in (mixture.context, mixture.head))
    return Scales(context, head, mixture.share, float(mixture.noise), mixture.length)


def expected_w1(mixture: ContextualMixture, step_w: float) -> Float[Array, "d"]:
    """E w1 = η (ζ - (1-ζ) E δw) w*, for any mixture and correlation, balanced labels."""
    shift = mixture.shifts[:, 1].mean() + mixture.spread[1] / 2
    return step_w * (mixture.share - (1 - mixture.share) * shift) * mixture.head


def expected_q1(mixture: ContextualMixture, step_w: float) -> Float[Array, "d"]:
    """E q1 / γ = η ζ² (1-ζ) W² (1 - η ζ² W² + η ζ σ²/T) q*, when w1 is its mean."""
    s = scales_of(mixture)
    size = step_w * s.share**2 * (1 - s.share) * s.head**2
    rest = 1 - step_w * s.share**2 * s.head**2 + step_w * s.share * s.noise**2 / s.length
    return size * rest * mixture.context


def small_step_direction(mixture: ContextualMixture) -> Float[Array, "d"]:
    """The direction of E q1 as η goes to 0, for any correlation: W² q* + (q*·w*) w*."""
    head, context = mixture.head, mixture.context
    return (head @ head) * context + (context @ head) * head


def largest_step(mixture: ContextualMixture) -> float:
    """The η beyond which E q1 points away from q*; infinite where there is none."""
    s = scales_of(mixture)
    curvature = s.share**2 * s.head**2 - s.share * s.noise**2 / s.length
    return 1 / curvature if curvature > 0 else math.inf


def relevant_attention(s: Scales, query: float, error: float = 0.0) -> float:
    """α, attention on relevant tokens with many tokens; the query's lengths as below."""
    relevant = s.share * math.exp(query * s.context)
    noise = math.exp((query**2 + error**2) * s.noise**2 / 2)
    return relevant / (relevant + (1 - s.share) * noise)


def expected_w2(mixture: ContextualMixture, step_w: float, query: float) -> Float[Array, "d"]:
    """E w2 = η α (1 - η ζ α W²) w* with many tokens, for q1 = τ q*/Q and w1 its mean."""
    s = scales_of(mixture)
    attention = relevant_attention(s, query)
    return step_w * attention * (1 - step_w * s.share * attention * s.head**2) * mixture.head


def signal_to_noise(s: Scales, query: float, error: float = 0.0) -> float:
    """Signal to noise of what the query reads across q*: r = r0 exp(τ Q - (τ² + ε²) σ²).

    Args:
      s: the scales.
      query: τ, the query's length along q*; Q / (2 σ²) is best.
      error: ε, its length across q*.
    """
    exponent = query * s.context - (query**2 + error**2) * s.noise**2
    return math.sqrt(s.signal) * math.exp(exponent)


def settles(s: Scales, query: float) -> float:
    """exp(4 τ² σ²) / ((1-ζ) T): far below 1 where averages over tokens have settled."""
    return math.exp(4 * (query * s.noise) ** 2) / ((1 - s.share) * s.length)


def w1_miss(s: Scales, dim: int, count: int, balanced: bool) -> float:
    """tan² of the angle between w1 and w* with n examples.

    It is (d - 1) / (n r0²), and Q² / (n W²) more where labels are drawn by a coin.
    """
    miss = (dim - 1) / (count * s.signal)
    return miss if balanced else miss + s.context**2 / (count * s.head**2)


def q1_miss(s: Scales, dim: int, count: int, balanced: bool) -> float:
    """tan² of the angle between q1 and q* with n examples a split, for a small η.

    The leading part is d / (n r0²) · σ² / ((1-ζ)² Q²). The error of w1 makes it larger by the
    factor 1 + d / (n r0²), so that the slope in n is -2 where n is below d / r0².
    """
    r, q, w, zeta, sigma = s.signal, s.context, s.head, s.share, s.noise
    own = 1 + dim / (count * r)
    miss = dim * own * sigma**2 / (count * r * ((1 - zeta) * q) ** 2)
    miss += dim * sigma**2 / (count * s.length * (1 - zeta) * q**2)
    miss += 1 / (count * r)
    if balanced:
        return miss
    # Unequal numbers of labels put w* into q1, through the noise and through w1.
    through_noise = sigma**2 / (zeta * w * q) + w / q
    return miss + (through_noise**2 + q**2 / w**2) / count


def head_error(signal: float, dim: int, count: int) -> float:
    """Test error of one averaging step on n examples, debiased: Φc(r² / √(r² + d/n))."""
    return float(norm.sf(signal**2 / math.sqrt(signal**2 + dim / count)))
