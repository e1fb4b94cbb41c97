"""`layers.attend` against JAX's own attention, below and above the size at which heads go alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models import layers

BATCH, HEADS, KV = 2, 3, 4


def _operands(length: int, mask_heads: int = 1):
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(3, BATCH, HEADS, length, KV)).astype(np.float32)
    bias = rng.normal(size=(1, HEADS, length, length)).astype(np.float32)
    mask = rng.random((BATCH, mask_heads, length, length)) < 0.8
    mask[..., 0] = True
    return queries, keys, values, mask, bias


@jax.jit
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
        jax.jit(layers.attend)(queries, keys, values, mask, bias),
        _reference(queries, keys, values, mask, bias),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 160])
def test_gradients_of_attention_equal_jax(length):
    queries, keys, values, mask, bias = _operands(length)
    target = np.random.default_rng(1).normal(size=queries.shape).astype(np.float32)

    def gradients(attention):
        def loss(q, k, v, b):
            return jnp.sum(attention(q, k, v, mask, b) * target)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(queries, keys, values, bias)

    for ours, theirs in zip(gradients(layers.attend), gradients(_reference), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
