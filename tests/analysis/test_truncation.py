"""Truncated prompts against what is known of the best approximation."""

import numpy as np
import pytest

from dpt_jax.analysis.spectrum import spectrum
from dpt_jax.analysis.truncation import energy_curve, ranks_for, truncate


def prompt(length=12, width=20, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(length, width)) * np.geomspace(1, 30, width)).astype(np.float32)


def test_the_error_is_the_norm_of_what_is_missed():
    whole = prompt()
    norm = np.linalg.norm(whole)
    for one in truncate(whole, [1, 2, 5, 12]):
        missed = np.linalg.norm(whole - one.prompt) / norm
        assert one.error == pytest.approx(missed, abs=1e-6)
        assert one.energy == pytest.approx(1 - missed**2, abs=1e-6)
        assert np.linalg.matrix_rank(one.prompt) == one.rank
        assert one.prompt.dtype == np.float32


def test_no_other_matrix_of_that_rank_that_was_tried_is_nearer():
    whole, rng = prompt(), np.random.default_rng(1)
    [best] = truncate(whole, [3])
    for _ in range(20):
        # The best matrix with these rows' directions, by least squares.
        directions = rng.normal(size=(3, whole.shape[1]))
        weights = np.linalg.lstsq(directions.T, whole.T, rcond=None)[0]
        other = np.linalg.norm(whole - weights.T @ directions) / np.linalg.norm(whole)
        assert best.error < other


def test_a_product_of_factors_loses_nothing_at_its_own_rank():
    rng = np.random.default_rng(2)
    product = rng.normal(size=(16, 4)) @ rng.normal(size=(4, 24))
    half, whole = truncate(product, [2, 4])
    assert whole.error < 1e-6 < 0.1 < half.error
    np.testing.assert_allclose(whole.prompt, product, rtol=1e-4, atol=1e-5)


def test_the_usual_ranks_end_at_the_prompts_own():
    rng = np.random.default_rng(3)
    assert ranks_for(rng.normal(size=(100, 7)) @ rng.normal(size=(7, 128))) == [1, 2, 5, 7]
    assert ranks_for(np.eye(10, 32)) == [1, 2, 5, 10]
    assert ranks_for(np.zeros((3, 4))) == [1]


def test_ranks_beyond_the_shape_are_left_out_and_below_one_refused():
    assert [one.rank for one in truncate(prompt(4, 9), [2, 4, 5])] == [2, 4]
    with pytest.raises(ValueError, match="rank is 0"):
        truncate(prompt(), [0, 1])


def test_the_energy_curve_rises_to_one():
    values = spectrum(np.diag([3.0, 4.0]))
    np.testing.assert_allclose(energy_curve(values), [16 / 25, 1.0])
    assert energy_curve(spectrum(np.zeros((2, 3)))).tolist() == [0.0, 0.0]


def test_a_zero_prompt_has_no_error_at_any_rank():
    [one] = truncate(np.zeros((3, 4), np.float32), [1])
    assert (one.error, one.energy) == (0.0, 1.0)
