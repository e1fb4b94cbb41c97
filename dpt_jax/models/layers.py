"""The layers of T5, with T5X's parameter names, shapes and logical axes.

T5 differs from the textbook transformer: RMS layer norm without bias, no biases anywhere, attention
scores without the 1/sqrt(head_dim) (folded into the initialization), and a relative position bias
that all layers of a stack share (Raffel et al., 2020, section 2.1), or that each has of its own in
umT5 (Chung et al., 2023).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jaxtyping import Array, Float, Int

from dpt_jax.models.activations import activate
from dpt_jax.models.attention import (
    Bias,
    KeyMask,
    QueryMask,
    attend,
    combine_masks,
    unnormalized_softmax,
)
from dpt_jax.models.platforms import by_platform


class Dense(nn.Module):
    """A linear map without bias over the last axis.

    Attributes:
      in_features: size of the input's last axis.
      features: size of the output's last axis.
      kernel_axes: logical axis names of the `kernel [in_features, features]` parameter.
      dtype: dtype in which the product is computed.
      kernel_init: Flax initializer of the kernel.
    """

    in_features: int
    features: int
    kernel_axes: tuple[str, str]
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")

    def setup(self):
        # In `setup`, so that attention can reach a kernel without applying it.
        self.kernel = param_with_axes(
            "kernel",
            self.kernel_init,
            (self.in_features, self.features),
            jnp.float32,
            axes=self.kernel_axes,
        )

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        return jnp.dot(x.astype(self.dtype), self.kernel.astype(self.dtype))


class LayerNorm(nn.Module):
    """T5's layer norm: `x / rms(x) * scale`, statistics in float32, no mean and no bias."""

    dtype: Any = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... embed"]) -> Float[Array, "... embed"]:
        scale = param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return y.astype(self.dtype) * scale.astype(self.dtype)


class Embed(nn.Module):
    """The token embedding table, which can also serve as the tied output projection."""

    num_embeddings: int
    features: int
    dtype: Any = jnp.float32

    def setup(self):
        self.embedding = param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=1.0),
            (self.num_embeddings, self.features),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, tokens: Int[Array, "..."]) -> Float[Array, "... embed"]:
        # Rows are picked before the cast: the whole table is never converted.
        return jnp.take(self.embedding, tokens, axis=0, mode="clip").astype(self.dtype)

    def attend(self, x: Float[Array, "... embed"]) -> Float[Array, "... vocab"]:
        """Scores `x` against every row, in float32 (T5X does so for stable training)."""
        return jnp.dot(x.astype(jnp.float32), self.embedding.astype(jnp.float32).T)


class MlpBlock(nn.Module):
    """T5's feed-forward block: `wo(act(wi x))`, or gated `wo(act(wi_0 x) * wi_1 x)`."""

    intermediate_dim: int
    activations: tuple[str, ...]
    dropout_rate: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... embed"], deterministic: bool):
        gated = len(self.activations) > 1
        branches = [
            Dense(
                x.shape[-1],
                self.intermediate_dim,
                kernel_axes=("embed", "mlp"),
                dtype=self.dtype,
                name=f"wi_{i}" if gated else "wi",
            )(x)
            for i in range(len(self.activations))
        ]
        hidden = activate(self.activations, branches)
        hidden = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(hidden, deterministic)
        hidden = with_sharding_constraint(hidden, ("batch", "length", "mlp"))
        return Dense(
            self.intermediate_dim,
            x.shape[-1],
            kernel_axes=("mlp", "embed"),
            dtype=self.dtype,
            name="wo",
        )(hidden)


def relative_position_bucket(
    relative_position: np.ndarray,
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> np.ndarray:
    """Maps `key position - query position` to a bucket (Raffel et al., 2020, section 2.1).

    Half of the buckets are exact distances, the other half grow logarithmically up to
    `max_distance`; everything beyond shares the last one. Positions are known when a program is
    traced, so this is NumPy and becomes a constant.
    """
    relative_position = np.asarray(relative_position)
    offset = np.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(relative_position > 0, num_buckets, 0)
        distance = np.abs(relative_position)
    else:
        distance = np.maximum(-relative_position, 0)
    exact = num_buckets // 2
    # The epsilon keeps distances on a bucket's edge, exact * 2^k, from being rounded below it.
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    growth = np.log(ratio) / np.log(max_distance / exact)
    far = np.minimum(exact + (growth * (num_buckets - exact)).astype(np.int32), num_buckets - 1)
    return offset + np.where(distance < exact, distance, far)


def _looked_up(
    table: Float[Array, "heads bucket"], buckets: Int[Array, "query key"]
) -> Float[Array, "heads query key"]:
    return jnp.take(table, buckets, axis=1)


def _looked_up_by_product(
    table: Float[Array, "heads bucket"], buckets: Int[Array, "query key"]
) -> Float[Array, "heads query key"]:
    """The same numbers as a matrix product, as T5X has it.

    A TPU gathers 8 or 16 heads of every position into rows of 128 lanes, and then moves them all.
    """
    one_hot = buckets == jnp.arange(table.shape[1])[:, None, None]
    # Without the highest precision a TPU rounds float32 to bfloat16 in products.
    return jnp.tensordot(table, one_hot.astype(table.dtype), axes=1, precision="highest")


class RelativePositionBiases(nn.Module):
    """The learned relative position bias that attention adds to its scores."""

    num_heads: int
    bidirectional: bool
    dtype: Any = jnp.float32
    num_buckets: int = 32
    max_distance: int = 128

    @nn.compact
    def __call__(
        self, length: int, index: Int[Array, ""] | None = None, in_front: int = 0
    ) -> Float[Array, "1 heads query in_front+length"]:
        """The bias among `length` positions: of every query, or of the one at `index` alone.

        Args:
          length: positions.
          index: the position of the only query; None for a query at every position.
          in_front: further keys, in front of position 0.
        """
        table = param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.num_heads, self.num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        buckets = relative_position_bucket(
            np.arange(-in_front, length)[None, :] - np.arange(length)[:, None],
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        bias = by_platform(
            lambda platform: _looked_up_by_product if platform == "tpu" else _looked_up,
            table.astype(self.dtype),
            jnp.asarray(buckets),
        )
        if index is not None:
            bias = jnp.take(bias, index[None], axis=1)
        return bias[None]


# Keys and values of a layer, each [batch, heads, length, head_dim].
KeysValues = tuple[Array, Array]


class MultiHeadAttention(nn.Module):
    """Multi-head attention without score scaling and without biases.

    The parts are methods, so that decoding can project keys and values once and reuse them:
    `project_memory` makes them, `__call__` attends to them.

    Attributes:
      emb_dim: width of the inputs and the output, D.
      num_heads: heads, H.
      head_dim: width of a head.
      dropout_rate: dropout on the attention weights, one draw for all queries of a head (T5's way).
      dtype: dtype of the computation.
      float32_logits: compute the scores in float32.
      attention: what computes it, one of `config.ATTENTIONS`.
    """

    emb_dim: int
    num_heads: int
    head_dim: int
    dropout_rate: float
    dtype: Any = jnp.float32
    float32_logits: bool = False
    attention: str = "auto"

    def setup(self):
        def projection(scale):
            return Dense(
                self.emb_dim,
                self.num_heads * self.head_dim,
                kernel_axes=("embed", "joined_kv"),
                dtype=self.dtype,
                kernel_init=nn.initializers.variance_scaling(scale, "fan_in", "normal"),
            )

        # The 1/sqrt(head_dim) that T5 leaves out of the scores sits in the query's initial scale.
        self.query = projection(1.0 / self.head_dim)
        self.key = projection(1.0)
        self.value = projection(1.0)
        self.out = Dense(
            self.num_heads * self.head_dim,
            self.emb_dim,
            kernel_axes=("joined_kv", "embed"),
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
        )
        # One draw for all queries of a head: to drop a key's weight is to drop its value, which is
        # the smaller array.
        self.values_dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-1,))
        self.weights_dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))

    def _split_heads(self, x: Float[Array, "batch length joined"]):
        x = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
        x = with_sharding_constraint(x, ("batch", "length", "heads", "kv"))
        # Heads in front of length: the products below are then plain batched matrix products,
        # which every backend runs faster than the einsum over [batch, length, heads, kv].
        return x.transpose(0, 2, 1, 3)

    def project_memory(self, memory: Float[Array, "batch key embed"]):
        """Returns keys and values, each `[batch, heads, key, head_dim]`."""
        return self._split_heads(self.key(memory)), self._split_heads(self.value(memory))

    def __call__(
        self,
        x: Float[Array, "batch query embed"],
        keys: Float[Array, "batch heads key kv"],
        values: Float[Array, "batch heads key kv"],
        key_mask: KeyMask | None,
        bias: Bias | None,
        deterministic: bool,
        *,
        causal: bool = False,
        query_mask: QueryMask | None = None,
    ) -> Float[Array, "batch query embed"]:
        queries = self._split_heads(self.query(x))
        y = attend(
            queries,
            keys,
            self.values_dropout(values, deterministic),
            bias,
            key_mask,
            causal,
            query_mask,
            float32_scores=self.float32_logits,
            implementation=self.attention,
        )
        return self._merge_heads(y)

    def attend_unprojected(
        self,
        x: Float[Array, "batch query embed"],
        memory: Float[Array, "batch key embed"],
        key_mask: KeyMask | None,
        deterministic: bool,
        *,
        query_mask: QueryMask | None = None,
        prefix: KeysValues | None = None,
    ) -> Float[Array, "batch query embed"]:
        """Attends to `memory` without forming its keys and values.

        `(x Wq)(memory Wk)^T = (x Wq Wk^T) memory^T`, and likewise for the values: with fewer
        queries than `head_dim` this does a fraction of the work, and nothing the size of the
        memory is kept for the backward pass. Equal to `__call__` up to rounding.

        Args:
          x: the queries' input.
          memory: what is attended to.
          key_mask: which of prefix and memory are seen.
          deterministic: no dropout.
          query_mask: which queries are real.
          prefix: keys and values in front of the memory's, `[batch, heads, N, head_dim]`.
        """
        batch, length, width = x.shape
        heads = (width, self.num_heads, self.head_dim)
        key_kernel = self.key.kernel.astype(self.dtype).reshape(heads)
        value_kernel = self.value.kernel.astype(self.dtype).reshape(heads)
        split = self._split_heads(self.query(x))
        queries = jnp.einsum("bhqk,dhk->bhqd", split, key_kernel)
        looked_up = memory
        if self.float32_logits:
            queries, looked_up = queries.astype(jnp.float32), memory.astype(jnp.float32)
        flat = queries.reshape(batch, self.num_heads * length, width)
        # The long operand first, as a CPU rearranges the second one for every product; the barrier
        # keeps XLA from turning the product around with the transposition.
        scores = jnp.matmul(looked_up, flat.swapaxes(-1, -2))
        scores = jax.lax.optimization_barrier(scores).swapaxes(-1, -2)
        scores = scores.reshape(batch, self.num_heads, length, -1)
        if prefix is not None:
            keys = prefix[0].astype(scores.dtype)
            of_prefix = jnp.matmul(split.astype(scores.dtype), keys.swapaxes(-1, -2))
            scores = jnp.concatenate([of_prefix, scores], axis=-1)
        mask = combine_masks(key_mask, query_mask)
        weights, total = unnormalized_softmax(scores, mask, None, self.dtype)
        # Heads share the memory here, so that the weights themselves are dropped.
        weights = self.weights_dropout(weights, deterministic)
        in_front = 0 if prefix is None else prefix[0].shape[2]
        on_prefix, weights = weights[..., :in_front], weights[..., in_front:]
        mixed = jnp.matmul(weights.reshape(batch, self.num_heads * length, -1), memory)
        mixed = mixed.reshape(batch, self.num_heads, length, width) / total
        # Heads first, and the kernel second: so it is read as it lies.
        mixed = mixed.swapaxes(0, 1).reshape(self.num_heads, batch * length, width)
        y = jnp.matmul(mixed, value_kernel.swapaxes(0, 1))
        y = y.reshape(self.num_heads, batch, length, -1).swapaxes(0, 1)
        if prefix is not None:
            y = y + jnp.matmul(on_prefix, prefix[1].astype(self.dtype)) / total
        return self._merge_heads(y)

    def _merge_heads(self, x: Float[Array, "batch heads query kv"]):
        batch, _, length, _ = x.shape
        x = x.transpose(0, 2, 1, 3).reshape(batch, length, self.num_heads * self.head_dim)
        return self.out(x)
