"""The position bias, looked up by platform, against one entry after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models import platforms
from dpt_jax.models.layers import RelativePositionBiases, relative_position_bucket

HEADS, LENGTH = 3, 150


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_platform_looks_up_the_same_numbers(platform, dtype, monkeypatch):
    monkeypatch.setattr(platforms, "_platforms", lambda: (platform,))
    module = RelativePositionBiases(HEADS, bidirectional=True, dtype=dtype)
    params = module.init(jax.random.key(0), LENGTH)
    bias = module.apply(params, LENGTH)
    table = np.asarray(params["params"]["rel_embedding"].astype(dtype))
    places = np.arange(LENGTH)
    buckets = relative_position_bucket(places[None] - places[:, None], bidirectional=True)
    expected = np.empty((HEADS, LENGTH, LENGTH), table.dtype)
    for query in range(LENGTH):
        for key in range(LENGTH):
            expected[:, query, key] = table[:, buckets[query, key]]
    np.testing.assert_array_equal(np.asarray(bias[0]), expected)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_its_gradient_is_the_sum_over_a_buckets_places(platform, monkeypatch):
    monkeypatch.setattr(platforms, "_platforms", lambda: (platform,))
    module = RelativePositionBiases(HEADS, bidirectional=True)
    params = module.init(jax.random.key(0), LENGTH)
    weights = np.random.default_rng(0).normal(size=(HEADS, LENGTH, LENGTH)).astype(np.float32)
    gradient = jax.grad(lambda p: jnp.sum(module.apply(p, LENGTH)[0] * weights))(params)
    places = np.arange(LENGTH)
    buckets = relative_position_bucket(places[None] - places[:, None], bidirectional=True)
    expected = np.stack([weights[:, buckets == b].sum(axis=1) for b in range(32)], axis=1)
    found = gradient["params"]["rel_embedding"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("platform", "gathers"), [("cpu", True), ("tpu", False)])
def test_a_tpu_does_not_gather(platform, gathers, monkeypatch):
    monkeypatch.setattr(platforms, "_platforms", lambda: (platform,))
    module = RelativePositionBiases(HEADS, bidirectional=True)
    params = module.init(jax.random.key(0), LENGTH)
    program = str(jax.make_jaxpr(lambda p: module.apply(p, LENGTH))(params))
    assert ("gather" in program) == gathers
