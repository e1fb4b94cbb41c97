"""Draws what is computed from an example's tokens without drawing the tokens.

The noise of a token is Gaussian. What a fixed query or head reads of it is one number a token. All
that is computed in the directions across is then Gaussian too, given those numbers, and is drawn as
one vector an example. The law is that of the tokens exactly, and the cost is T + d numbers an
example in place of T d. It holds where query and head do not depend on the examples: each split of
the three-step algorithm is used once. This is ours, not the paper's.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from dpt_jax.theory.contextual_mixture import (
    ContextualMixture,
    draw_labels,
    irrelevant_mean,
    relevant_token,
)

Vector = Float[Array, "d"]


def direction_of(vector: Vector) -> tuple[Vector, Float[Array, ""]]:
    """A vector of length 1 along `vector`, and its length; of zero both are zero."""
    length = jnp.linalg.norm(vector)
    return jnp.where(length > 0, vector / jnp.where(length > 0, length, 1), 0), length


def across(vectors: Float[Array, "... d"], direction: Vector) -> Float[Array, "... d"]:
    """The vectors less their parts along a direction of length 1."""
    return vectors - (vectors @ direction)[..., None] * direction


def attended(
    mixture: ContextualMixture, key: Array, labels: Float[Array, "n"], q: Vector
) -> tuple[Float[Array, "n d"], Float[Array, "n"], Float[Array, "n"]]:
    """What is pooled by query q, given all that the query reads.

    Returns:
      Mean and standard deviation of u = Xᵀ softmax(X q) in the directions across q (along q it is
      the mean, exactly), and the share of attention on relevant tokens.
    """
    mean_key, noise_key = jax.random.split(key)
    along, length = direction_of(q)
    r, other = relevant_token(mixture, labels), irrelevant_mean(mixture, mean_key, labels)
    shape = (labels.shape[0], mixture.length - mixture.relevant)
    noise = mixture.noise * jax.random.normal(noise_key, shape, mixture.noise.dtype)
    scores = (other @ q)[:, None] + length * noise
    own = r @ q
    most = jnp.maximum(scores.max(axis=1), own)
    weights = jnp.exp(scores - most[:, None])
    mass = mixture.relevant * jnp.exp(own - most)
    total = mass + weights.sum(axis=1)
    weights, share = weights / total[:, None], mass / total
    mean = share[:, None] * r + (1 - share)[:, None] * other
    mean += (weights * noise).sum(axis=1)[:, None] * along
    # A query of zero reads nothing: then its noise is in the part across, all of it.
    return mean, mixture.noise * jnp.sqrt((weights**2).sum(axis=1)), share


def pooled(
    mixture: ContextualMixture, key: Array, labels: Float[Array, "n"], q: Vector
) -> Float[Array, "n d"]:
    """Draws u = Xᵀ softmax(X q) of n examples."""
    read_key, across_key = jax.random.split(key)
    mean, scale, _ = attended(mixture, read_key, labels, q)
    noise = jax.random.normal(across_key, mean.shape, mean.dtype)
    along, _ = direction_of(q)
    return mean + scale[:, None] * across(noise, along)


def mean_and_covariance_times(
    mixture: ContextualMixture, key: Array, labels: Float[Array, "n"], w: Vector
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """Draws the mean token x̄ and C w of n examples, C the covariance of an example's tokens."""
    mean_key, read_key, *keys = jax.random.split(key, 4)
    along, length = direction_of(w)
    r, other = relevant_token(mixture, labels), irrelevant_mean(mixture, mean_key, labels)
    count, sigma = mixture.length - mixture.relevant, mixture.noise
    read = sigma * jax.random.normal(read_key, (labels.shape[0], count), sigma.dtype)
    first, second = read.sum(axis=1), (read**2).sum(axis=1)
    one, two = (across(sigma * jax.random.normal(k, r.shape, sigma.dtype), along) for k in keys)
    # Sums over the tokens of the noise z, and of z times what w's direction reads of it.
    z = first[:, None] * along + jnp.sqrt(count) * one
    rest = jnp.sqrt(jnp.maximum(second - first**2 / count, 0))
    zz = second[:, None] * along + (first / jnp.sqrt(count))[:, None] * one + rest[:, None] * two
    zz *= length
    mean = (mixture.relevant * r + count * other + z) / mixture.length
    own, others = (r @ w)[:, None], (other @ w)[:, None]
    moment = mixture.relevant * own * r + count * others * other
    moment += length * first[:, None] * other + others * z + zz
    return mean, moment / mixture.length - (mean @ w)[:, None] * mean


def test_error(
    mixture: ContextualMixture,
    key: Array,
    w: Vector,
    q: Vector,
    offset: Float[Array, ""] | float = 0.0,
    count: int = 2000,
) -> Float[Array, ""]:
    """The chance that y (f(X) - offset) is not above 0, for prompt-attention f of head w, query q.

    Exact in the directions across q; over what q reads, a mean over `count` balanced draws.
    """
    labels = draw_labels(key, count, balanced=True)
    mean, scale, _ = attended(mixture, key, labels, q)
    along, _ = direction_of(q)
    margin = labels * (mean @ w - offset)
    deviation = scale * jnp.linalg.norm(across(w, along))
    certain = jnp.where(margin > 0, 0.0, 1.0)
    chance = norm.sf(margin / jnp.where(deviation > 0, deviation, 1))
    return jnp.where(deviation > 0, chance, certain).mean()


def relevant_attention(
    mixture: ContextualMixture, key: Array, q: Vector, count: int = 2000
) -> Float[Array, ""]:
    """The mean share of the attention of q that goes to relevant tokens."""
    labels = draw_labels(key, count, balanced=True)
    return attended(mixture, key, labels, q)[2].mean()
