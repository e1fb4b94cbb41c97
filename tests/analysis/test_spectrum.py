"""The numbers of a prompt's spectrum against closed forms and numpy.linalg."""

import math

import numpy as np
import pytest

from dpt_jax.analysis.spectrum import spectrum


def with_singular_values(values, length=12, width=20, seed=0):
    """A matrix of random orthogonal directions with the given singular values."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(length, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(width, len(values))))
    return (left * np.asarray(values)) @ right.T


def test_the_singular_values_are_those_the_prompt_was_made_of():
    values = [9.0, 4.0, 1.0, 0.25]
    found = spectrum(with_singular_values(values)).singular_values
    assert found.shape == (12,)
    np.testing.assert_allclose(found, values + [0.0] * 8, atol=1e-12)


def test_equal_directions_count_one_each():
    found = spectrum(with_singular_values([3.0] * 10))
    assert found.effective_rank == pytest.approx(10, rel=1e-9)
    assert found.rank_for_energy(0.9) == 9
    assert found.rank_for_energy(0.99) == 10
    assert found.rank_for_energy(0.05) == 1


def test_the_effective_rank_of_two_directions_is_the_exponential_of_their_entropy():
    # Shares 3/4 and 1/4: exp(3/4 ln 4/3 + 1/4 ln 4).
    expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert spectrum(with_singular_values([3.0, 1.0])).effective_rank == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_that_many_directions_hold_the_energy_and_one_fewer_do_not(share):
    prompt = np.random.default_rng(3).normal(size=(9, 30)) * np.geomspace(1, 50, 30)
    rank = spectrum(prompt).rank_for_energy(share)
    u, s, vt = np.linalg.svd(prompt, full_matrices=False)

    def missed(k):
        return np.linalg.norm(prompt - (u[:, :k] * s[:k]) @ vt[:k]) ** 2

    allowed = (1 - share) * np.linalg.norm(prompt) ** 2
    assert missed(rank) <= allowed + 1e-6
    assert missed(rank - 1) > allowed + 1e-6


def test_a_product_folded_in_float32_has_the_rank_of_its_bottleneck():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(100, 10)), rng.normal(size=(10, 512))
    prompt = a.astype(np.float32) @ b.astype(np.float32)
    found = spectrum(prompt)
    assert found.numerical_rank == np.linalg.matrix_rank(prompt) == 10
    assert found.singular_values[10] > 0  # Rounding, which is not to be counted.


def test_a_zero_prompt_has_no_directions():
    found = spectrum(np.zeros((3, 4), np.float32))
    assert found.effective_rank == 0
    assert found.numerical_rank == found.rank_for_energy(0.9) == 0


def test_scaling_a_prompt_changes_no_rank():
    prompt = np.random.default_rng(2).normal(size=(6, 8))
    one, other = spectrum(prompt), spectrum(1e-3 * prompt)
    assert one.effective_rank == pytest.approx(other.effective_rank)
    assert one.numerical_rank == other.numerical_rank == 6
    assert one.rank_for_energy(0.9) == other.rank_for_energy(0.9)


def test_what_is_not_a_matrix_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        spectrum(np.ones(3))
    with pytest.raises(ValueError, match="share is 90"):
        spectrum(np.ones((2, 2))).rank_for_energy(90)
