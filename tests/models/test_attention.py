"""`layers.attend` against JAX's own attention, below and above the size at which heads go alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models import layers

BATCH, HEADS, KV = 2, 3, 4


def _operands(length: int, mask_heads: int = 1):
    keys = jax.random.split(jax.random.key(0), 5)
    queries, k, v = (jax.random.normal(key, (BATCH, HEADS, length, KV)) for key in keys[:3])
    bias = jax.random.normal(keys[3], (1, HEADS, length, length))
    mask = jax.random.bernoulli(keys[4], 0.8, (BATCH, mask_heads, length, length))
    return queries, k, v, mask.at[..., 0].set(True), bias


def _reference(queries, keys, values, mask, bias):
    by_length = [x.swapaxes(1, 2) for x in (queries, keys, values)]
    out = jax.nn.dot_product_attention(*by_length, bias=bias, mask=mask, scale=1.0)
    return out.swapaxes(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("mask_heads", [1, HEADS])
@pytest.mark.parametrize("length", [16, 160])
def test_attention_without_a_gradient_equals_jax(length, mask_heads):
    operands = _operands(length, mask_heads)
    np.testing.assert_allclose(
        jax.jit(layers.attend)(*operands), _reference(*operands), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("which", ["mask", "bias"])
def test_mask_and_bias_may_be_missing(which):
    queries, keys, values, mask, bias = _operands(160)
    mask, bias = (None, bias) if which == "mask" else (mask, None)
    np.testing.assert_allclose(
        layers.attend(queries, keys, values, mask, bias),
        _reference(queries, keys, values, mask, bias),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 160])
def test_gradients_of_attention_equal_jax(length):
    queries, keys, values, mask, bias = _operands(length)
    target = jax.random.normal(jax.random.key(1), queries.shape)

    def loss(attention):
        return lambda q, k, v, b: jnp.sum(attention(q, k, v, mask, b) * target)

    for ours, theirs in zip(
        jax.grad(loss(layers.attend), argnums=(0, 1, 2, 3))(queries, keys, values, bias),
        jax.grad(loss(_reference), argnums=(0, 1, 2, 3))(queries, keys, values, bias),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
