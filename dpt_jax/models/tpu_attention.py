"""Attention for TPUs that never holds its scores in memory: Pallas kernels, forward and backward.

A step of a kernel's grid takes some queries of one row with all of the row's keys. So whole rows
of the softmax are in the chip's fast memory, and nothing is rescaled as it is where keys come in
blocks (Dao et al., 2022, "FlashAttention", algorithm 1). The backward pass computes the scores
again from queries and keys, and the weights from the log-sum-exp that the forward pass saved.

Heads stay where the projections put them, side by side in the last axis: a head of 64 numbers
alone would fill half of a TPU's 128 lanes and take twice the memory. A block has as many heads as
fill the lanes. A product of one of them takes the block's full width, the other heads' numbers set
to zero on one side: to the matrix unit that is the same work.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from dpt_jax.models.kernel_sizes import Sizes
from dpt_jax.models.masking import MASKED_SCORE


def attend(
    queries: Float[Array, "row query joined"],
    keys: Float[Array, "row key joined"],
    values: Float[Array, "row key joined"],
    bias: Float[Array, "#row heads query key"] | None,
    key_mask: Bool[Array, "#row key"] | None,
    query_mask: Bool[Array, "#row query"] | None,
    sizes: Sizes,
    interpret: bool = False,
) -> Float[Array, "row query joined"]:
    """Attention with scores in float32; see `attention.attend`, whose heads are apart.

    Args:
      queries: `[row, query, heads * kv]`, on one device.
      keys: `[row, key, heads * kv]`.
      values: the same.
      bias: what is added to the scores.
      key_mask: which keys are seen; None shows all.
      query_mask: which queries see some; None for all.
      sizes: the shape.
      interpret: run the kernels on any device, slowly.
    """
    inputs = {"queries": queries, "keys": keys, "values": values, "bias": bias}
    for name, mask in (("hidden_keys", key_mask), ("hidden_queries", query_mask)):
        # A row of its own each: a block's second last axis is whole then, however short.
        inputs[name] = mask if mask is None else jnp.where(mask, 0.0, MASKED_SCORE)[:, None]
    return _attend(inputs, sizes, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(inputs: dict[str, Any], sizes: Sizes, interpret: bool) -> Array:
    return forward(inputs, sizes, interpret)[0]


def _attend_fwd(inputs, sizes, interpret):
    out, sums = forward(inputs, sizes, interpret)
    return out, inputs | {"out": out, "sums": sums}


def _attend_bwd(sizes, interpret, saved, cotangent):
    inputs = saved | {"cotangent": cotangent}
    gradients = backward(inputs, sizes, interpret)
    if inputs["bias"] is not None:
        # A call of its own: where nobody trains the bias, the compiler leaves it out.
        gradients["bias"] = backward_bias(inputs, sizes, interpret)
    names = ("queries", "keys", "values", "bias", "hidden_keys", "hidden_queries")
    return ({name: gradients.get(name) for name in names},)


_attend.defvjp(_attend_fwd, _attend_bwd)


class _Step:
    """What the kernels have in common: one block of queries with all keys, head by head."""

    def __init__(self, sizes: Sizes, block: int, place: dict[str, Any], refs: dict[str, Any]):
        self._sizes, self._refs, self._block = sizes, refs, block
        self.number, self.blocks = place["queries"], -(-sizes.query // block)
        self._first = self.number * block
        self._ragged = sizes.query % block != 0
        self.heads = sizes.block_heads
        self.is_first_of_bias = (place["rows"] == 0) | (sizes.bias_rows > 1)

    def rows(self, name: str) -> Array:
        """A block's queries, or what has their shape; zeros behind the last one."""
        return self._there(self._refs[name][0])

    def _there(self, rows: Array) -> Array:
        if not self._ragged:
            return rows
        return jnp.where(_iota(rows.shape, 0) < self._sizes.query - self._first, rows, 0)

    def of_head(self, rows: Array, head: int) -> Array:
        """The block's arrays with the other heads' numbers set to zero."""
        if self._sizes.block_heads == 1:
            return rows
        lane = _iota(rows.shape, 1)
        kv = self._sizes.kv
        return jnp.where((lane >= head * kv) & (lane < (head + 1) * kv), rows, 0)

    def scores(self, queries: Array, head: int) -> Array:
        """Scores `[block, key]` of a head, bias and masks added."""
        scores = _dot(queries, self._refs["keys"][0], (1, 1))
        hidden = self._hidden()
        # Bias and masks first, as in the definition: a score then vanishes in a masked key's.
        if "bias" in self._refs:
            bias = self._refs["bias"][0, head].astype(jnp.float32)
            return scores + (bias if hidden is None else bias + hidden)
        return scores if hidden is None else scores + hidden

    def _hidden(self) -> Array | None:
        hidden = self._refs["hidden_keys"][0] if "hidden_keys" in self._refs else None
        if "hidden_queries" in self._refs:
            queries = _column(self._refs["hidden_queries"][0])
            hidden = queries if hidden is None else jnp.minimum(hidden, queries)
        if not self._sizes.causal:
            return hidden
        shape = (self._block, self._sizes.key)
        last = self._first + self._sizes.key - self._sizes.query
        seen = _iota(shape, 1) <= _iota(shape, 0) + last
        return jnp.where(seen, 0.0 if hidden is None else hidden, MASKED_SCORE)

    def gradient(self, head: int) -> tuple[Array, Array, Array, Array]:
        """Weights and the scores' gradient `[block, key]`, and the head's queries and cotangent."""
        queries = self.of_head(self.rows("queries"), head)
        cotangent = self.of_head(self.rows("cotangent"), head)
        largest, log_total = (
            _column(self._refs["sums"][0, 0, 2 * head + i : 2 * head + i + 1]) for i in range(2)
        )
        weights = self._there(jnp.exp(self.scores(queries, head) - largest - log_total))
        out = self.rows("out").astype(jnp.float32)
        mean = jnp.sum(out * cotangent.astype(jnp.float32), axis=1, keepdims=True)
        of_weights = _dot(cotangent, self._refs["values"][0], (1, 1))
        return weights, weights * (of_weights - mean), queries, cotangent


def _iota(shape: tuple[int, ...], axis: int) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def _dot(left: Array, right: Array, axes: tuple[int, int]) -> Array:
    """A matrix product over the given axes, summed in float32."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


# A column is one number for each of a block's queries; it lies in memory as a row. To turn it, it
# takes the 8 rows of a tile.
def _column(row: Array) -> Array:
    return jnp.transpose(jnp.broadcast_to(row, (8, row.shape[1])))[:, :1]


def _row(column: Array) -> Array:
    return jnp.transpose(jnp.broadcast_to(column, (column.shape[0], 8)))[:1]


def _forward_kernel(step: _Step, refs: dict[str, Any]) -> None:
    values, queries = refs["values"][0], step.rows("queries")
    out = jnp.zeros(queries.shape, jnp.float32)
    for head in range(step.heads):
        scores = step.scores(step.of_head(queries, head), head)
        largest = jnp.max(scores, axis=1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=1, keepdims=True)
        mixed = _dot(weights.astype(values.dtype), values, (1, 0))
        out += step.of_head(mixed / total, head)
        for i, part in enumerate((largest, jnp.log(total))):
            refs["sums"][0, 0, 2 * head + i : 2 * head + i + 1] = _row(part)
    refs["out"][0] = out.astype(refs["out"].dtype)


def _backward_kernel(step: _Step, refs: dict[str, Any]) -> None:
    keys = refs["keys"][0]

    @pl.when(step.number == 0)
    def _():
        for name in ("sum_of_keys", "sum_of_values"):
            refs[name][...] = jnp.zeros(refs[name].shape, jnp.float32)

    of_queries = jnp.zeros(refs["of_queries"].shape[1:], jnp.float32)
    for head in range(step.heads):
        weights, of_scores, queries, cotangent = step.gradient(head)
        weights, of_scores = weights.astype(cotangent.dtype), of_scores.astype(keys.dtype)
        of_queries += step.of_head(_dot(of_scores, keys, (1, 0)), head)
        # Turned, so that of each product the small side is turned and not the scores.
        refs["sum_of_keys"][...] += _dot(jnp.transpose(queries), of_scores, (1, 0))
        refs["sum_of_values"][...] += _dot(jnp.transpose(cotangent), weights, (1, 0))
    refs["of_queries"][0] = of_queries.astype(refs["of_queries"].dtype)

    @pl.when(step.number == step.blocks - 1)
    def _():
        for name in ("of_keys", "of_values"):
            refs[name][0] = jnp.transpose(refs[f"sum_{name}"][...]).astype(refs[name].dtype)


def _bias_kernel(step: _Step, refs: dict[str, Any]) -> None:
    for head in range(step.heads):
        of_scores = step.gradient(head)[1]
        of_bias = refs["of_bias"]

        @pl.when(step.is_first_of_bias)
        def _(of_bias=of_bias, head=head, of_scores=of_scores):
            of_bias[0, head] = of_scores

        @pl.when(jnp.logical_not(step.is_first_of_bias))
        def _(of_bias=of_bias, head=head, of_scores=of_scores):
            of_bias[0, head] += of_scores


# In which order a kernel's steps go: the last one fastest. Where rows go last, all of them find the
# bias of their heads in fast memory; where queries do, the gradients of keys and values stay there.
_ROWS_LAST, _QUERIES_LAST = ("heads", "queries", "rows"), ("heads", "rows", "queries")


def forward(inputs: dict[str, Any], sizes: Sizes, interpret: bool) -> tuple[Array, Array]:
    """The attention, and for every query its largest score and the logarithm of its sum.

    These are the log-sum-exp in two parts: where all keys are masked, the first swallows the other.
    """
    results = {"out": inputs["values"].dtype, "sums": jnp.float32}
    found = _call(_forward_kernel, inputs, results, sizes, _ROWS_LAST, interpret)
    return found["out"], found["sums"]


def backward(inputs: dict[str, Any], sizes: Sizes, interpret: bool) -> dict[str, Array]:
    """The gradients of queries, keys and values."""
    results = {f"of_{name}": inputs[name].dtype for name in ("queries", "keys", "values")}
    found = _call(_backward_kernel, inputs, results, sizes, _QUERIES_LAST, interpret)
    return {name.removeprefix("of_"): x for name, x in found.items()}


def backward_bias(inputs: dict[str, Any], sizes: Sizes, interpret: bool) -> Array:
    """The bias's gradient, summed over the rows that share it."""
    results = {"of_bias": jnp.float32}
    found = _call(_bias_kernel, inputs, results, sizes, _ROWS_LAST, interpret)
    return found["of_bias"].astype(inputs["bias"].dtype)


# Matrix products of a kernel, each of queries x keys x kv for a head.
_PRODUCTS = {_forward_kernel: 2, _backward_kernel: 5, _bias_kernel: 2}
# What has the queries' shape, and the keys'.
_LIKE_QUERIES = ("queries", "out", "cotangent", "of_queries")
_LIKE_KEYS = ("keys", "values", "of_keys", "of_values")


def cost(kernel: Any, sizes: Sizes, arrays: Any) -> pl.CostEstimate:
    """What a kernel does: operations of its matrix products, exponentials, and bytes moved.

    Every array counts once. Where queries come in several blocks, keys or the bias are read again.
    """
    scores = sizes.rows * sizes.heads * sizes.query * sizes.key
    return pl.CostEstimate(
        flops=2 * _PRODUCTS[kernel] * scores * sizes.kv,
        transcendentals=scores,
        bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays),
    )


def _call(
    kernel: Any,
    inputs: dict[str, Any],
    results: dict[str, Any],
    sizes: Sizes,
    order: tuple[str, str, str],
    interpret: bool,
) -> dict[str, Array]:
    """Runs a kernel over heads, queries and rows; arrays have the names by which it knows them."""
    inputs = {name: x for name, x in inputs.items() if x is not None}
    heads, width = sizes.block_heads, sizes.width
    block = sizes.block_query("forward" if kernel is _forward_kernel else "backward")
    grid = {"heads": sizes.heads // heads, "rows": sizes.rows, "queries": -(-sizes.query // block)}

    def spec(name: str, rows: int) -> pl.BlockSpec:
        """The block of an array that a step has; `rows` of it, or one for all."""

        def at(index: Any) -> Any:
            def of_step(*places: Any) -> Any:
                step = dict(zip(order, places, strict=True))
                return index(step["heads"], step["queries"], 0 if rows == 1 else step["rows"])

            return of_step

        if name in _LIKE_QUERIES:
            return pl.BlockSpec((1, block, width), at(lambda h, i, r: (r, i, h)))
        if name in _LIKE_KEYS:
            return pl.BlockSpec((1, sizes.key, width), at(lambda h, i, r: (r, 0, h)))
        if name == "sums":
            return pl.BlockSpec((1, 1, 2 * heads, block), at(lambda h, i, r: (r, h, 0, i)))
        if name == "hidden_keys":
            return pl.BlockSpec((1, 1, sizes.key), at(lambda h, i, r: (r, 0, 0)))
        if name == "hidden_queries":
            return pl.BlockSpec((1, 1, block), at(lambda h, i, r: (r, 0, i)))
        return pl.BlockSpec((1, heads, block, sizes.key), at(lambda h, i, r: (r, h, i, 0)))

    shapes: dict[str, tuple[int, ...]] = {
        "sums": (sizes.rows, grid["heads"], 2 * heads, sizes.query),
        "of_bias": (sizes.bias_rows, sizes.heads, sizes.query, sizes.key),
    }
    shapes |= dict.fromkeys(_LIKE_QUERIES, (sizes.rows, sizes.query, sizes.heads * sizes.kv))
    shapes |= dict.fromkeys(_LIKE_KEYS, (sizes.rows, sizes.key, sizes.heads * sizes.kv))
    out_shape = {name: jax.ShapeDtypeStruct(shapes[name], t) for name, t in results.items()}
    scratch = {}
    if kernel is _backward_kernel:
        sums = pltpu.VMEM((width, sizes.key), jnp.float32)
        scratch = {"sum_of_keys": sums, "sum_of_values": sums}
    names = (*inputs, *results, *scratch)

    def body(*refs: Any) -> None:
        found = dict(zip(names, refs, strict=True))
        step = {name: pl.program_id(axis) for axis, name in enumerate(order)}
        kernel(_Step(sizes, block, step, found), found)

    made = pl.pallas_call(
        body,
        grid=tuple(grid[name] for name in order),
        in_specs=[spec(name, x.shape[0]) for name, x in inputs.items()],
        out_specs=[spec(name, x.shape[0]) for name, x in out_shape.items()],
        out_shape=list(out_shape.values()),
        scratch_shapes=list(scratch.values()),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=cost(kernel, sizes, [*inputs.values(), *out_shape.values()]),
        name=kernel.__name__.strip("_"),
        interpret=interpret,
    )(*inputs.values())
    return dict(zip(results, made, strict=True))
