"""Attention itself: `softmax(queries keys^T + bias) values`, and what computes it where.

`attend` is what encoder, decoder, cross-attention and decoding call. `plain` is the definition that
the others are measured against: it holds the scores of all rows and heads at once. The others hold
a part of them, and compute them again for the backward pass.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.partitioning import logical_to_mesh_axes
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from dpt_jax.models.kernel_sizes import Sizes, takes
from dpt_jax.models.masking import MASKED_SCORE
from dpt_jax.models.platforms import by_platform

# Scores of a row and a head from which on it pays not to hold them: fewer fit a CPU's cache, and
# are a small part of a TPU's memory.
_MANY_SCORES = 128 * 128
# From which on a CPU computes them again for the backward pass: then a step is no slower, and takes
# three quarters of the memory (docs/benchmarks.md).
_TOO_MANY_SCORES = 512 * 512

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
    *,
    float32_scores: bool = False,
    implementation: str = "auto",
) -> Queries:
    """`softmax(queries keys^T + bias) values`, a query's masked keys left out.

    Scores are not scaled: T5 has the 1/sqrt(kv) in its initialization, and another transformer
    scales its queries. Queries and keys may differ in number.

    Args:
      queries: what attends, `[batch, heads, query, kv]`.
      keys: what is attended to, `[batch, heads, key, kv]`.
      values: what is mixed; of the keys' shape and dtype where a kernel is to take them.
      bias: what is added to the scores, for all rows or for each; None adds nothing.
      key_mask: which keys of a row are seen; None shows all.
      causal: whether a query sees no key behind its own place. The last query stands at the last
        key, so that keys in front of the first query (a prefix, a cache) are seen by all.
      query_mask: which queries are real. The others see every key alike, as T5X's padding does,
        so that all its logits can be compared; None where nothing reads them.
      float32_scores: scores in float32 whatever the queries' dtype is. All but `plain` and
        `blocked` have them so anyway.
      implementation: one of `config.ATTENTIONS`. `auto` is chosen for each platform that the
        program may be lowered for: on a TPU `pallas` and on a GPU `cudnn`, where they take the
        operands and there are many scores; on a CPU `blocked` without a gradient, and with one
        from 512 x 512 scores a row and head on; else `plain`.

    Returns:
      `[batch, heads, query, kv]`. A query all of whose keys are masked gets their values' mean.
    """
    operands = (queries, keys, values, bias, key_mask, query_mask)
    static = {"causal": causal, "float32_scores": float32_scores}
    if implementation != "auto":
        return functools.partial(_IMPLEMENTATIONS[implementation], **static)(*operands)
    if queries.shape[2] * keys.shape[2] < _MANY_SCORES:
        return _plain(*operands, **static)

    def choice(platform: str) -> Callable[..., Array]:
        return functools.partial(_choice(platform, queries, keys, values), **static)

    return by_platform(choice, *operands)


def plain(
    queries: Queries,
    keys: Keys,
    values: Keys,
    bias: Bias | None = None,
    key_mask: KeyMask | None = None,
    causal: bool = False,
    query_mask: QueryMask | None = None,
    float32_scores: bool = False,
) -> Queries:
    """`attend` as it is written down; the scores of all rows and heads are held at once."""
    if float32_scores:
        queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    scores = jnp.matmul(queries, keys.swapaxes(-1, -2))
    shape = (queries.shape[2], keys.shape[2]) if causal else None
    mask = combine_masks(key_mask, query_mask, shape)
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


def _plain(queries, keys, values, bias, key_mask, query_mask, *, causal, float32_scores):
    return plain(queries, keys, values, bias, key_mask, causal, query_mask, float32_scores)


def _blocked(queries, keys, values, bias, key_mask, query_mask, *, causal, float32_scores):
    """One head of all rows after the other, whose scores the backward pass computes again."""

    @jax.checkpoint
    def one(own):
        queries, keys, values, bias = jax.tree.map(lambda x: x[:, None], own)
        out = plain(queries, keys, values, bias, key_mask, causal, query_mask, float32_scores)
        return out[:, 0]

    heads = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (queries, keys, values, bias))
    return jnp.moveaxis(jax.lax.map(one, heads), 0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _by_head_without_a_gradient(*args):
    *operands, causal, float32_scores = args
    return _blocked(*operands, causal=causal, float32_scores=float32_scores)


_by_head_without_a_gradient.defvjp(
    lambda *args: jax.vjp(
        functools.partial(_plain, causal=args[-2], float32_scores=args[-1]), *args[:-2]
    ),
    lambda causal, float32_scores, vjp, cotangent: vjp(cotangent),
)


def _on_cpu(*operands, causal, float32_scores):
    # Without a gradient head by head: the scores stay in the cache, and 400 tokens are encoded an
    # eighth faster.
    queries, keys = operands[:2]
    if queries.shape[2] * keys.shape[2] < _TOO_MANY_SCORES:
        return _by_head_without_a_gradient(*operands, causal, float32_scores)
    # Each device of a mesh its own heads: a loop over those of all would gather them.
    local = functools.partial(_blocked, causal=causal, float32_scores=float32_scores)
    return _on_each_device(local, *operands)


def _pallas(queries, keys, values, bias, key_mask, query_mask, *, causal, float32_scores):
    """The TPU kernels, on each device of the mesh for its own rows and heads."""
    # It brings Pallas, a tenth of what it takes to import this package's parts.
    from dpt_jax.models import tpu_attention

    del float32_scores  # They are.

    def local(queries, keys, values, bias, key_mask, query_mask):
        rows, heads, query, kv = queries.shape
        bias_rows = 0 if bias is None else bias.shape[0]
        sizes = Sizes(
            rows, query, keys.shape[2], heads, kv, values.dtype.itemsize, causal, bias_rows
        )

        # As the projections made them: the compiler cancels this against `_split_heads`.
        def joined(x):
            return x.swapaxes(1, 2).reshape(rows, -1, heads * kv)

        out = tpu_attention.attend(
            joined(queries), joined(keys), joined(values), bias, key_mask, query_mask, sizes
        )
        return out.reshape(rows, query, heads, kv).swapaxes(1, 2)

    return _on_each_device(local, queries, keys, values, bias, key_mask, query_mask)


def _on_each_device(local, queries, keys, values, bias, key_mask, query_mask):
    """The partitioner divides no kernel and no loop over heads: here each device has its own."""
    mesh = jax.sharding.get_abstract_mesh()
    operands = (queries, keys, values, bias, key_mask, query_mask)
    if mesh.size <= 1 or mesh.manual_axes:
        return local(*operands)
    by_row, by_head = logical_to_mesh_axes(("batch", "heads")) or (None, None)

    def divides(axes, size):
        names = (axes,) if isinstance(axes, str) else axes or ()
        return size % math.prod(mesh.shape[name] for name in names) == 0

    def spec(x):
        # What an axis does not divide, such as one row for all, is on all of its devices.
        row = by_row if divides(by_row, x.shape[0]) else None
        head = by_head if x.ndim == 4 and divides(by_head, x.shape[1]) else None
        return PartitionSpec(row, head)

    specs = jax.tree.map(spec, operands)
    return jax.shard_map(local, in_specs=specs, out_specs=specs[0], check_vma=False)(*operands)


def _cudnn(queries, keys, values, bias, key_mask, query_mask, *, causal, float32_scores):
    """NVIDIA's fused attention, whose scores are float32."""
    del float32_scores
    query, key = queries.shape[2], keys.shape[2]
    mask = combine_masks(key_mask, query_mask, (query, key) if causal else None)
    # With a bias or a mask its backward pass takes even lengths alone.
    more = [(0, 0), (0, 0), (0, query % 2), (0, key % 2)]
    if mask is None and key % 2:
        mask = jnp.ones((1, 1, 1, 1), bool)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], query, key))
        # A query that sees no key is to see all alike: its scores are made 0. Were they masked, its
        # backward pass would take each of their weights for 1.
        sees = mask.any(axis=-1, keepdims=True)
        queries = jnp.where(sees, queries, 0)
        bias = None if bias is None else jnp.where(sees, bias, 0)
        mask = jnp.pad(mask | ~sees, more)
    queries = jnp.pad(queries, [*more[:3], (0, 0)])
    keys, values = (jnp.pad(x, [*more[:2], more[3], (0, 0)]) for x in (keys, values))
    bias = None if bias is None else jnp.pad(bias, more).astype(queries.dtype)
    out = jax.nn.dot_product_attention(
        queries.swapaxes(1, 2),
        keys.swapaxes(1, 2),
        values.swapaxes(1, 2),
        bias,
        mask,
        scale=1.0,
        implementation="cudnn",
    )
    return out.swapaxes(1, 2)[:, :, :query]


def cudnn_takes(dtype: Any, kv: int) -> str | None:
    """Why cuDNN does not take an attention; None where it does."""
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"its activations are {jnp.dtype(dtype).name}, and cuDNN takes bfloat16"
    if kv % 8 or kv > 128:
        return f"its heads are {kv} wide, and cuDNN takes multiples of 8 up to 128"
    return None


_IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "plain": _plain,
    "blocked": _blocked,
    "cudnn": _cudnn,
    "pallas": _pallas,
}


def _choice(platform: str, queries: Array, keys: Array, values: Array) -> Callable[..., Array]:
    """What `auto` means on a platform, for many scores."""
    kv, dtype = queries.shape[3], values.dtype
    # Of one shape and dtype, as kernels want them; those of a measurement may differ.
    alike = keys.shape == values.shape and queries.dtype == keys.dtype == dtype
    if platform == "tpu" and alike:
        if takes(keys.shape[2], kv, dtype.itemsize) is None:
            return _pallas
    if platform == "gpu" and alike and cudnn_takes(dtype, kv) is None:
        return _cudnn
    return _on_cpu if platform == "cpu" else _plain
