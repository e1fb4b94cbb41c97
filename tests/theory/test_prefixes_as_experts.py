"""The mixture of experts against attention, its estimator, and the Voronoi losses by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dpt_jax.errors import InputError
from dpt_jax.theory import least_squares, voronoi
from dpt_jax.theory.experiments import sharing_rates
from dpt_jax.theory.prefix_regression import (
    STRUCTURES,
    Prompts,
    check_sizes,
    draw_experts,
    draw_params,
    known_part,
    predict,
    prompts_of,
    split_atom,
)

EXPERTS = draw_experts(jax.random.key(0), 4, 3)
TRUE = Prompts(
    *map(jnp.asarray, ([[1.0, 0, 0], [0, 1, 0]], [[0.5, 0, 1], [0, -1, 0]], [0.1, -0.2]))
)


def points(count, seed=1):
    return jax.random.uniform(jax.random.key(seed), (3, count), minval=-2, maxval=2)


def test_a_prefix_in_attention_is_this_mixture():
    # One head of softmax attention whose keys and values depend on the query as the experts do.
    x = np.asarray(points(5))
    found = predict(EXPERTS, known_part(EXPERTS, x), TRUE, x)
    for column in range(5):
        query = x[:, column]
        scores = [
            query @ a @ query + b for a, b in zip(EXPERTS.scores, EXPERTS.biases, strict=True)
        ]
        values = [h @ query for h in EXPERTS.maps]
        scores += [(EXPERTS.key_map @ k) @ query + b for k, _, b in zip(*TRUE, strict=True)]
        values += [EXPERTS.value_map @ v for v in TRUE.values]
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(
            found[:, column], weights @ np.stack(values), rtol=1e-4, atol=1e-5
        )


def test_structures_share_what_they_say():
    params = draw_params(jax.random.key(1), "simple", 2, 3, 1.0)
    simple = prompts_of("simple", params, EXPERTS)
    np.testing.assert_array_equal(simple.keys, simple.values)
    layered = prompts_of("tanh", params, EXPERTS)
    expected = np.tanh(np.asarray(params["shared"]) @ np.asarray(EXPERTS.value_layer).T)
    np.testing.assert_allclose(layered.values, expected, rtol=1e-5)
    assert set(draw_params(jax.random.key(1), "no share", 2, 3, 1.0)) == {
        "keys",
        "values",
        "biases",
    }
    assert set(STRUCTURES) == {"no share", "simple", "tanh"}


@pytest.mark.slow
def test_a_prompt_too_many_leaves_values_unidentified_without_sharing():
    x = points(50)
    known = known_part(EXPERTS, x)
    before = predict(EXPERTS, known, TRUE, x)
    for apart in (0.3, 30.0):
        split = split_atom(TRUE, 0, jnp.full(3, apart))
        np.testing.assert_allclose(
            predict(EXPERTS, known, split, x), before, atol=2e-4 * (1 + apart)
        )
        # Both atoms are 1.73 · apart off, with half of exp(0.1) each.
        expected = np.exp(0.1) * np.sqrt(3) * apart
        if apart < 1:
            assert np.isclose(voronoi.d1(split, TRUE), expected, rtol=1e-4)
            assert float(voronoi.mean_value_error(split, TRUE)) < 1e-5


@pytest.mark.slow
def test_voronoi_losses_by_hand():
    true = Prompts(*map(jnp.asarray, ([[0.0], [10]], [[0.0], [10]], [0.0, np.log(2)])))
    keys, weights = np.asarray([[0.5], [-0.5], [10.25]]), np.asarray([0.5, 0.25, 2.5])
    fitted = Prompts(jnp.asarray(keys), jnp.asarray(keys), jnp.log(weights))
    weight = abs(0.75 - 1) + abs(2.5 - 2)
    moved = np.abs([0.5, 0.5, 0.25])
    assert np.isclose(voronoi.d1(fitted, true), weight + 2 * weights @ moved, rtol=1e-5)
    squared = weight + 2 * weights @ moved**2
    assert np.isclose(voronoi.d1(fitted, true, power=2.0), squared, rtol=1e-5)
    by_cell = weights @ [0.25, 0.25, 0.25]
    d2 = voronoi.d2(fitted.keys, fitted.biases, true.keys, true.biases)
    assert np.isclose(d2, weight + by_cell, rtol=1e-5)
    assert np.isclose(voronoi.d3(fitted, true), weight + 2 * by_cell, rtol=1e-5)
    assert np.isclose(voronoi.mean_value_error(fitted, true), 0.25, rtol=1e-5)
    assert float(voronoi.d1(true, Prompts(*(leaf[::-1] for leaf in true)))) < 1e-6


@pytest.mark.slow
def test_a_mean_by_chunks_is_the_mean_and_has_its_gradient():
    data = jnp.arange(12.0).reshape(2, 6)

    def loss(params, part):
        return jnp.sin(params[0] * part[0]) + params[1] * part[1] ** 2

    params = jnp.asarray([0.3, 0.7])
    for count in (1, 5, 6):
        mean = least_squares.mean_over_points(loss, data, count, chunk=2)
        plain = lambda p: loss(p, data[:, :count]).mean()  # noqa: B023, E731
        for ours, expected in zip(
            jax.value_and_grad(mean)(params), jax.value_and_grad(plain)(params), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["no share", "simple"])
def test_least_squares_finds_the_prompts_of_data_without_noise(structure):
    with jax.enable_x64(True):
        params = draw_params(jax.random.key(5), structure, 2, 3, 1.0)
        true = prompts_of(structure, params, EXPERTS)
        x = points(128)
        known = known_part(EXPERTS, x)
        y = predict(EXPERTS, known, true, x)
        start, unravel = ravel_pytree(params)

        def loss(vector, part):
            x, y, known = part
            prompts = prompts_of(structure, unravel(vector), EXPERTS)
            return ((predict(EXPERTS, known, prompts, x) - y) ** 2).sum(0)

        mean = least_squares.mean_over_points(loss, (x, y, known), 128, 128)
        starts = start + 0.3 * jax.random.normal(jax.random.key(2), (3, len(start)))
        find = jax.jit(jax.vmap(functools.partial(least_squares.minimize, mean, steps=200)))
        ends, values = find(starts)
        found = ends[jnp.nanargmin(values)]
        assert float(jnp.nanmin(values)) < 1e-10
        assert float(voronoi.d1(prompts_of(structure, unravel(found), EXPERTS), true)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [2, 4])
def test_the_start_near_the_truth_is_the_same_function(fitted):
    settings = sharing_rates.Settings(sizes=(8,), repeats=1)
    world = sharing_rates._world(settings)
    params = sharing_rates._near_truth(settings, {"truth": "tanh", "fitted": fitted})
    near = prompts_of("tanh", params, world.experts)
    assert len(near.keys) == fitted
    found, true = (
        predict(world.experts, world.test_known, prompts, world.test_x)
        for prompts in (near, world.truths["tanh"][1])
    )
    np.testing.assert_allclose(found, true, atol=1e-5)


def test_more_prompts_than_points_are_refused():
    with pytest.raises(InputError, match="5 prompts are fitted to 4 points"):
        check_sizes(2, 5, 4)
    with pytest.raises(InputError, match="1 prompts are fitted to 2"):
        check_sizes(2, 1, 4)
    check_sizes(2, 3, 4)
