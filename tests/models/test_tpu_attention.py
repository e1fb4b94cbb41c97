"""The TPU kernels, interpreted on the CPU, against attention written down."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models import attention, kernel_sizes, tpu_attention
from dpt_jax.models.attention import plain
from tests.support import processes

pytestmark = pytest.mark.slow


@pytest.fixture
def kernels(monkeypatch):
    """`attend` by the kernels, interpreted."""
    interpreted = functools.partial(tpu_attention.attend, interpret=True)
    monkeypatch.setattr(tpu_attention, "attend", interpreted)
    return functools.partial(attention.attend, implementation="pallas")


def _operands(query, key, heads=2, kv=8, bias_rows=1, dtype=np.float32):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(2, heads, query, kv)).astype(dtype)
    keys, values = rng.normal(size=(2, 2, heads, key, kv)).astype(dtype)
    bias = rng.normal(size=(bias_rows, heads, query, key)).astype(dtype) if bias_rows else None
    return (queries, keys, values, bias), rng


def _value_and_gradients(attend, operands, target):
    def loss(operands):
        out = attend(*operands)
        return jnp.sum(out.astype(jnp.float32) * target), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(operands)
    return [out, *(g for g in gradients if g is not None)]


def _assert_equal(found, expected, tolerance=2e-6):
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


CASES = {
    # Two heads fill a block's lanes; the prefix in front is seen by all.
    "causal": {"query": 13, "key": 17, "kv": 64, "causal": True},
    # The last block of queries is not full, and every row has a bias of its own.
    "blocks": {"query": 150, "key": 20, "bias_rows": 2},
    "no bias": {"query": 5, "key": 9, "heads": 3, "bias_rows": 0},
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_attention_written_down(case, kernels, monkeypatch):
    sizes = dict(CASES[case])
    causal = sizes.pop("causal", False)
    operands, rng = _operands(**sizes)
    query, key = operands[0].shape[2], operands[1].shape[2]
    masks = {}
    if case != "no bias":
        # One row has no key at all, and some queries see none.
        masks["key_mask"] = (rng.random((2, key)) < 0.7) & [[True], [False]]
        masks["query_mask"] = rng.random((2, query)) < 0.7
    if case == "blocks":
        monkeypatch.setattr(kernel_sizes, "_FAST_BYTES", 0)
    target = rng.normal(size=operands[0].shape).astype(np.float32)
    found, expected = (
        _value_and_gradients(functools.partial(f, causal=causal, **masks), operands, target)
        for f in (kernels, plain)
    )
    _assert_equal(found, expected)


def test_a_population_is_mapped(kernels):
    (queries, keys, values, bias), _ = _operands(6, 6)
    members = [jnp.stack([x, 2 * x, -x]) for x in (queries, keys, values)]

    def mapped(attend):
        return jax.jit(jax.vmap(lambda q, k, v: attend(q, k, v, bias)))(*members)

    _assert_equal([mapped(kernels)], [mapped(plain)])


def test_scores_of_bfloat16_operands_are_float32(kernels):
    operands, _ = _operands(12, 12, kv=32, dtype=jnp.bfloat16)
    exact = plain(*(x.astype(np.float32) for x in operands))
    found = jax.jit(kernels)(*operands)
    assert found.dtype == jnp.bfloat16

    def error(out):
        return np.abs(np.asarray(out, np.float32) - exact).max()

    # What is left is the rounding of the weights and of the result.
    assert error(found) < 0.5 * error(plain(*operands))


def test_devices_of_a_mesh_take_their_own_rows_and_heads():
    done = processes.run("tests.support.attention_meshes", "pallas", "6", devices=4)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["error"] < 2e-6
    # Of the bias alone, which all rows share, are gradients exchanged.
    assert found["collectives"] == ["all-reduce"]


def test_what_the_kernels_do_not_take_is_told():
    assert kernel_sizes.takes(612, 64, 2) is None
    assert "12 wide" in kernel_sizes.takes(612, 12, 2)
    assert "100000 keys" in kernel_sizes.takes(100_000, 64, 2)
