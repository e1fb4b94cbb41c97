"""Attention itself: `softmax(queries keys^T + bias) values`, whatever computes it.

`attend` is what encoder, decoder, cross-attention and decoding call. `plain` is the definition that
everything else is measured against: it holds the scores of all rows and heads at once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Finite, so that a query whose keys are all masked gives a uniform softmax instead of NaN. T5X uses
# the same value, and such queries then agree too.
MASKED_SCORE = -1e10

# Scores of a row and a head up to which a CPU does not gain from going head by head.
_SCORES_THAT_FIT = 128 * 128

Queries = Float[Array, "batch heads query kv"]
Keys = Float[Array, "batch heads key kv"]
Bias = Float[Array, "#batch heads query key"]
KeyMask = Bool[Array, "#batch key"]
QueryMask = Bool[Array, "#batch query"]


def attend(
    queries: Queries,
    keys: Keys,
    values: Keys,
    bias: Bias | None = None,
    key_mask: KeyMask | None = None,
    causal: bool = False,
    query_mask: QueryMask | None = None,
) -> Queries:
    """`softmax(queries keys^T + bias) values`, a query's masked keys left out.

    Scores are not scaled, and are of the dtype of queries and keys: T5 has the 1/sqrt(kv) in its
    initialization, and another transformer scales its queries. Queries and keys may differ in
    number.

    Args:
      queries: what attends, `[batch, heads, query, kv]`.
      keys: what is attended to, `[batch, heads, key, kv]`.
      values: what is mixed, of the keys' shape; the result has their dtype.
      bias: what is added to the scores, for all rows or for each; None adds nothing.
      key_mask: which keys of a row are seen; None shows all.
      causal: whether a query sees no key behind its own place. The last query stands at the last
        key, so that keys in front of the first query (a prefix, a cache) are seen by all.
      query_mask: which queries are real. The others see every key alike, as T5X's padding does,
        so that all its logits can be compared; None where nothing reads them.

    Returns:
      `[batch, heads, query, kv]`. A query all of whose keys are masked gets their values' mean.
    """
    return _attend(queries, keys, values, bias, key_mask, query_mask, causal)


def plain(
    queries: Queries,
    keys: Keys,
    values: Keys,
    bias: Bias | None = None,
    key_mask: KeyMask | None = None,
    causal: bool = False,
    query_mask: QueryMask | None = None,
) -> Queries:
    """`attend` as it is written down; the scores of all rows and heads are held at once."""
    scores = jnp.matmul(queries, keys.swapaxes(-1, -2))
    mask = combine_masks(
        key_mask, query_mask, (queries.shape[2], keys.shape[2]) if causal else None
    )
    weights, total = unnormalized_softmax(scores, mask, bias, values.dtype)
    return jnp.matmul(weights, values) / total


def combine_masks(
    key_mask: KeyMask | None,
    query_mask: QueryMask | None = None,
    causal_shape: tuple[int, int] | None = None,
) -> Bool[Array, "#batch 1 #query key"] | None:
    """One mask of what each query sees; None where all see everything.

    Args:
      key_mask: which keys are seen.
      query_mask: which queries see any.
      causal_shape: queries and keys of a causal mask; None without one.
    """
    parts: list[Any] = []
    if causal_shape is not None:
        count, length = causal_shape
        parts.append(jnp.tril(jnp.ones((1, 1, count, length), bool), length - count))
    if query_mask is not None:
        parts.append(query_mask[:, None, :, None])
    if key_mask is not None:
        parts.append(key_mask[:, None, None, :])
    return functools.reduce(jnp.logical_and, parts) if parts else None


def unnormalized_softmax(
    scores: Float[Array, "batch heads query key"],
    mask: Bool[Array, "#batch #heads #query key"] | None,
    bias: Bias | None,
    dtype: Any,
) -> tuple[Float[Array, "batch heads query key"], Float[Array, "batch heads query 1"]]:
    """Unnormalized attention weights, and their sums over the keys.

    What is mixed with the weights is divided by the sums afterwards: it is smaller than the
    weights, and the backward pass then needs one array of the scores' size.
    """
    # Added, as T5X does: a score of usual size vanishes in MASKED_SCORE, and the backward pass
    # needs no mask. Bias and mask are added to each other first, which is the same for all
    # layers and so compiled once.
    offset = 0 if bias is None else bias.astype(scores.dtype)
    if mask is not None:
        offset = offset + jnp.where(mask, 0, MASKED_SCORE).astype(scores.dtype)
    scores = scores + offset
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.float32).astype(dtype)
    return weights.astype(dtype), total


def _head_by_head(queries, keys, values, bias, key_mask, query_mask, causal):
    def one(head):
        def pick(x):
            return jax.lax.dynamic_slice_in_dim(x, head, 1, axis=1)

        own = None if bias is None else pick(bias)
        picked = map(pick, (queries, keys, values))
        return plain(*picked, own, key_mask, causal, query_mask)[:, 0]

    return jnp.moveaxis(jax.lax.map(one, jnp.arange(queries.shape[1])), 0, 1)


def _all_at_once(queries, keys, values, bias, key_mask, query_mask, causal):
    return plain(queries, keys, values, bias, key_mask, causal, query_mask)


# A CPU that runs it without a gradient goes head by head, so that the scores stay in its cache: the
# encoder of 400 tokens is then an eighth faster. The backward pass would have to collect the heads'
# scores again, and accelerators want the whole product at once.
@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(queries, keys, values, bias, key_mask, query_mask, causal):
    operands = (queries, keys, values, bias, key_mask, query_mask)
    at_once = functools.partial(_all_at_once, causal=causal)
    if queries.shape[2] * keys.shape[2] < _SCORES_THAT_FIT:
        return at_once(*operands)
    by_head = functools.partial(_head_by_head, causal=causal)
    return jax.lax.platform_dependent(*operands, cpu=by_head, default=at_once)


_attend.defvjp(
    lambda *args: jax.vjp(functools.partial(_all_at_once, causal=args[-1]), *args[:-1]),
    lambda _, vjp, cotangent: vjp(cotangent),
)
