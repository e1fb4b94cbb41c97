"""Activation functions: their values by the formulas, and what they keep for the backward pass."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models import config
from dpt_jax.models.activations import activate

X = np.linspace(-4, 4, 33, dtype=np.float32)
GATE = np.cos(X)


def tanh_gelu(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": tanh_gelu,
    "exact_gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "linear": lambda x: x,
}


def values(name, x):
    return np.array([FORMULAS[name](float(one)) for one in x])


def slopes(name, x):
    """By central differences in float64; relu has none at 0."""
    step = 1e-5
    return (values(name, x + step) - values(name, x - step)) / (2 * step)


def test_a_t5_may_have_these():
    assert set(config.ACTIVATIONS) == set(FORMULAS) - {"exact_gelu"}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_slopes_are_those_of_the_formula(name):
    x = X[X != 0]
    y, slope = jax.jvp(lambda x: activate((name,), (x,)), (x,), (np.ones_like(x),))
    np.testing.assert_allclose(y, values(name, x), atol=1e-6)
    np.testing.assert_allclose(slope, slopes(name, x.astype(np.float64)), atol=2e-6)


@pytest.mark.parametrize("name", ["gelu", "silu", "relu"])
def test_a_gated_block_multiplies_its_branches(name):
    y, pull = jax.vjp(lambda *branches: activate((name, "linear"), branches), X, GATE)
    np.testing.assert_allclose(y, values(name, X) * GATE, atol=1e-6)
    of_branch, of_gate = pull(jnp.ones_like(y))
    away = X != 0
    expected = slopes(name, X.astype(np.float64)) * GATE
    np.testing.assert_allclose(of_branch[away], expected[away], atol=2e-6)
    np.testing.assert_allclose(of_gate, values(name, X), atol=1e-6)


@pytest.mark.parametrize("names", [("silu",), ("gelu",), ("exact_gelu",), ("gelu", "linear")])
def test_no_more_than_the_branches_is_kept_for_the_backward_pass(names):
    _, pull = jax.vjp(lambda *branches: activate(names, branches), *(X, GATE)[: len(names)])
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) <= len(names) * X.nbytes
