"""`attend` against JAX's own attention, below and above the size at which heads go alone."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models.attention import attend, plain
from tests.support import processes

BATCH, HEADS, KV = 2, 3, 4


def _operands(query: int, key: int):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(BATCH, HEADS, query, KV)).astype(np.float32)
    keys, values = rng.normal(size=(2, BATCH, HEADS, key, KV)).astype(np.float32)
    bias = rng.normal(size=(1, HEADS, query, key)).astype(np.float32)
    key_mask = rng.random((BATCH, key)) < 0.8
    key_mask[..., 0] = True
    return queries, keys, values, bias, key_mask


def _reference(queries, keys, values, bias, key_mask, causal=False, query_mask=None):
    if bias is None:
        bias = np.zeros((), np.float32)
    by_length = [x.swapaxes(1, 2) for x in (queries, keys, values)]
    query, key = queries.shape[2], keys.shape[2]
    mask = np.ones((BATCH, 1, query, key), bool)
    if causal:
        mask &= np.arange(key) <= np.arange(query)[:, None] + key - query
    if key_mask is not None:
        mask &= key_mask[:, None, None]
    if query_mask is not None:
        # A query that sees nothing has a uniform softmax, as T5X has it.
        mask &= query_mask[:, None, :, None]
        bias = jnp.where(query_mask[:, None, :, None], bias, 0)
        by_length[0] = jnp.where(query_mask[:, :, None, None], by_length[0], 0)
    mask |= ~mask.any(axis=-1, keepdims=True)
    out = jax.nn.dot_product_attention(*by_length, bias=bias, mask=mask, scale=1.0)
    return out.swapaxes(1, 2)


def _close(ours, theirs, rtol=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(16, 16), (160, 160), (150, 160)])
def test_attention_without_a_gradient_equals_jax(lengths, causal):
    operands = _operands(*lengths)
    found = jax.jit(attend, static_argnums=5)(*operands, causal)
    _close(found, _reference(*operands, causal))


@pytest.mark.parametrize("which", ["key_mask", "bias"])
def test_mask_and_bias_may_be_missing(which):
    queries, keys, values, bias, key_mask = _operands(160, 160)
    key_mask, bias = (None, bias) if which == "key_mask" else (key_mask, None)
    operands = (queries, keys, values, bias, key_mask)
    _close(jax.jit(attend)(*operands), _reference(*operands))


def test_a_query_that_is_masked_sees_every_key_alike():
    operands = _operands(5, 7)
    query_mask = np.array([[True] * 5, [True, False, True, False, False]])
    found = jax.jit(lambda *args: attend(*args, query_mask=query_mask))(*operands)
    _close(found, _reference(*operands, query_mask=query_mask))
    _close(found[1, :, 1], operands[2][1].mean(axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 160, 520])
def test_gradients_of_attention_equal_jax(length):
    queries, keys, values, bias, key_mask = _operands(length, length)
    target = np.random.default_rng(1).normal(size=queries.shape).astype(np.float32)

    def gradients(attention):
        def loss(q, k, v, b):
            return jnp.sum(attention(q, k, v, b, key_mask) * target)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(queries, keys, values, bias)

    for ours, theirs in zip(gradients(attend), gradients(_reference), strict=True):
        _close(ours, theirs, rtol=1e-4)


def _gradient(attention, target, *args):
    return jax.jit(jax.grad(lambda q, k, v, b: jnp.sum(attention(q, k, v, b, *args) * target)))


@pytest.mark.slow
def test_blocked_attention_equals_plain_and_holds_the_scores_of_one_head():
    queries, keys, values, bias, key_mask = _operands(33, 35)
    target = np.random.default_rng(1).normal(size=queries.shape).astype(np.float32)
    blocked = functools.partial(attend, implementation="blocked")
    found, expected = (
        _gradient(f, target, key_mask, True).lower(queries, keys, values, bias).compile()
        for f in (blocked, plain)
    )
    operands = (queries, keys, values, bias)
    np.testing.assert_allclose(found(*operands), expected(*operands), rtol=1e-4, atol=1e-5)
    assert "[2,3,33,35]" in expected.as_text() and "[2,3,33,35]" not in found.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("length", [480, 520])
def test_long_scores_are_not_kept_for_a_gradient(length):
    queries, keys, values, bias, key_mask = _operands(length, length)
    step = _gradient(attend, np.ones_like(queries), key_mask)
    program = step.lower(queries, keys, values, bias).compile().as_text()
    assert (f"[2,3,{length},{length}]" in program) == (length < 512)


@pytest.mark.slow
def test_devices_of_a_mesh_take_their_own_heads_of_long_rows():
    done = processes.run("tests.support.attention_meshes", "auto", "520", devices=4)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["error"] < 1e-5
    assert found["collectives"] == ["all-reduce"]


@pytest.mark.parametrize("masked", ["keys and queries", "keys", "nothing"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("lengths", [(6, 8), (5, 7), (1, 4)])
def test_a_gpus_attention_is_given_what_it_takes(monkeypatch, lengths, with_bias, masked):
    """cuDNN cannot run here; JAX's own attention, which takes the same arguments, can."""
    given = []

    def dot_product_attention(queries, keys, values, bias, mask, *, implementation, **kwargs):
        # What JAX refuses where cuDNN's is to have a gradient.
        by_length = queries.shape[1], keys.shape[1]
        for x in (bias, mask):
            assert x is None or x.shape[2:] == by_length
        assert (bias is None and mask is None) or not any(n % 2 for n in by_length)
        given.append(implementation)
        return original(queries, keys, values, bias, mask, **kwargs)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", dot_product_attention)
    query, key = lengths
    queries, keys, values, bias, key_mask = _operands(query, key)
    query_mask = np.ones((BATCH, query), bool)
    query_mask[1, query // 2 :] = False
    masks = {
        "key_mask": None if masked == "nothing" else key_mask,
        "query_mask": query_mask if masked == "keys and queries" else None,
        "causal": masked == "keys",
    }
    target = np.random.default_rng(1).normal(size=queries.shape).astype(np.float32)

    def value_and_gradients(attention):
        def loss(queries, keys, values, bias):
            out = attention(queries, keys, values, bias, **masks)
            return jnp.sum(out * target), out

        differentiated = (0, 1, 2, 3) if with_bias else (0, 1, 2)
        step = jax.jit(jax.grad(loss, argnums=differentiated, has_aux=True))
        gradients, out = step(queries, keys, values, bias if with_bias else None)
        return out, *gradients

    found = value_and_gradients(functools.partial(attend, implementation="cudnn"))
    monkeypatch.undo()
    assert given == ["cudnn"]
    for ours, theirs in zip(found, value_and_gradients(_reference), strict=True):
        _close(ours, theirs, rtol=1e-4)
