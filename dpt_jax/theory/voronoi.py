"""Losses between fitted and true prompts, by the Voronoi cells of the true ones.

A fitted prompt belongs to the true prompt that is nearest to it. There may be several in a cell,
and a permutation does not matter (Le et al., 2025, section 4). The losses' exact text was not at
hand: these are their usual form, with exp(b) as the weight of a prompt.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpt_jax.theory.prefix_regression import Prompts


def cells(
    fitted: Float[Array, "fitted k"], true: Float[Array, "true k"]
) -> Bool[Array, "fitted true"]:
    """Which fitted atom is in the cell of which true one."""
    distances = ((fitted[:, None] - true[None]) ** 2).sum(axis=-1)
    return distances.argmin(axis=1)[:, None] == jnp.arange(true.shape[0])


def _joined(prompts: Prompts) -> Float[Array, "L 2d"]:
    return jnp.concatenate([prompts.keys, prompts.values], axis=1)


def _distances(fitted: Float[Array, "a d"], true: Float[Array, "b d"]) -> Float[Array, "a b"]:
    return jnp.linalg.norm(fitted[:, None] - true[None], axis=-1)


def weight_error(
    fitted: Float[Array, "a"], true: Float[Array, "b"], inside: Bool[Array, "a b"]
) -> Float[Array, ""]:
    """Σ_j |Σ_{i in V_j} exp(b_i) - exp(b*_j)|, which all the losses begin with."""
    return jnp.abs((jnp.exp(fitted)[:, None] * inside).sum(axis=0) - jnp.exp(true)).sum()


def d1(fitted: Prompts, true: Prompts, power: float = 1.0) -> Float[Array, ""]:
    """D_{1,r}: weights, and ‖Δk‖^r + ‖Δv‖^r of every fitted prompt to its true one."""
    inside = cells(_joined(fitted), _joined(true))
    moved = _distances(fitted.keys, true.keys) ** power
    moved += _distances(fitted.values, true.values) ** power
    atoms = (jnp.exp(fitted.biases)[:, None] * inside * moved).sum()
    return weight_error(fitted.biases, true.biases, inside) + atoms


def d2(
    fitted: Float[Array, "a d"],
    fitted_biases: Float[Array, "a"],
    true: Float[Array, "b d"],
    true_biases: Float[Array, "b"],
) -> Float[Array, ""]:
    """D2, on shared p: ‖Δp‖ where a cell has one fitted prompt, ‖Δp‖² where it has several."""
    inside = cells(fitted, true)
    return _by_cell([_distances(fitted, true)], inside, fitted_biases, true_biases)


def d3(fitted: Prompts, true: Prompts) -> Float[Array, ""]:
    """D3, of a layer between p and the pair: as D2, on what the layer gives for key and value.

    Le et al. measure ΔW1 p and ΔW2 p. Here it is what follows, tanh(W1 p) and tanh(W2 p), which
    every structure has.
    """
    inside = cells(_joined(fitted), _joined(true))
    moved = [
        _distances(fitted.keys, true.keys),
        _distances(fitted.values, true.values),
    ]
    return _by_cell(moved, inside, fitted.biases, true.biases)


def _by_cell(distances: Sequence[Array], inside: Array, fitted: Array, true: Array) -> Array:
    several = inside.sum(axis=0) > 1
    moved = sum(jnp.where(several, by**2, by) for by in distances)
    return weight_error(fitted, true, inside) + (jnp.exp(fitted)[:, None] * inside * moved).sum()


def mean_value_error(fitted: Prompts, true: Prompts) -> Float[Array, ""]:
    """The largest distance between a true value and its cell's mean value, weighted by exp(b).

    An empty cell counts with the true value's own length.
    """
    inside = cells(_joined(fitted), _joined(true)) * jnp.exp(fitted.biases)[:, None]
    mass = inside.sum(axis=0)
    means = (inside.T @ fitted.values) / jnp.where(mass > 0, mass, 1)[:, None]
    return jnp.linalg.norm(means - true.values, axis=-1).max()
