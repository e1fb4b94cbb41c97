"""What keys and values share, against definitions and closed forms."""

import numpy as np
import pytest

from dpt_jax.analysis import likeness


def rows(rng, layers=2, length=12, heads=3, kv=4):
    return rng.normal(size=(layers, length, heads, kv)).astype(np.float32)


def test_cosines_are_averaged_over_tokens():
    keys = np.zeros((1, 4, 1, 2), np.float32)
    keys[0, :, 0, 0] = [1, 2, 3, 0]
    values = np.array([[1, 0], [0, 5], [-7, 0], [1, 1]], np.float32).reshape(1, 4, 1, 2)
    # 1, 0 and -1, and nothing to compare in the last.
    assert likeness.cosine(keys, values).tolist() == [0.0]
    np.testing.assert_allclose(likeness.cosine(values, 3 * values), [1.0])


def test_canonical_correlations_are_those_of_the_covariances_of_principal_components():
    rng = np.random.default_rng(0)
    keys = rows(rng)
    values = (0.5 * keys + rows(rng)).astype(np.float32)
    found = likeness.canonical_correlation(keys, values, 3)
    for layer in range(2):
        scores = []
        for side in (keys, values):
            x = side[layer].reshape(12, -1).astype(np.float64)
            x -= x.mean(axis=0)
            scores.append(x @ np.linalg.eigh(x.T @ x)[1][:, -3:])
        a, b = (x.T @ x for x in scores)
        ab = scores[0].T @ scores[1]
        squares = np.linalg.eigvals(np.linalg.solve(a, ab) @ np.linalg.solve(b, ab.T)).real
        assert found[layer] == pytest.approx(squares.mean(), rel=1e-6)


def test_a_rotation_shares_all_and_independent_directions_what_chance_gives():
    rng = np.random.default_rng(1)
    keys = rows(rng)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    turned = (keys.reshape(2, 12, 12) @ turn).reshape(keys.shape) + 5
    np.testing.assert_allclose(likeness.canonical_correlation(keys, turned), 1, atol=1e-6)
    many = [likeness.canonical_correlation(rows(rng), rows(rng), 3).mean() for _ in range(300)]
    assert np.mean(many) == pytest.approx(3 / 11, abs=0.02)
    # A prefix whose tokens are all the same has no directions.
    np.testing.assert_array_equal(likeness.canonical_correlation(0 * keys + 1, keys), 0)
    with pytest.raises(ValueError, match="12 components of a prefix of 12 tokens"):
        likeness.canonical_correlation(keys, keys, 12)
