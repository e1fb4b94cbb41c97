"""The discrete model: what is claimed to be right or wrong of it, on all its examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.theory import contextual_mixture, separation

SHARE, LENGTH = 0.25, 8


def examples(row, size, correlation=0.5):
    mixture = contextual_mixture.discrete(
        3,
        context_norm=1.0,
        head_norm=1.0,
        correlation=correlation,
        share=SHARE,
        length=LENGTH,
        shifts=separation.ROWS[row](size),
    )
    return mixture, *contextual_mixture.enumerate_examples(mixture)[:2]


@pytest.mark.parametrize("row", sorted(separation.ROWS))
@pytest.mark.parametrize(("size", "score"), [(5.0, 0.5), (5.0, 0.4), (1.0, 0.5), (1.0, 0.6)])
def test_the_oracle_prompt_is_right_exactly_where_its_margin_is_positive(row, size, score):
    mixture, tokens, labels = examples(row, size)
    w, q = separation.oracle_prompt(mixture, score)
    error = separation.error("prompt-attention", {"w": w, "q": q}, tokens, labels)
    # log 15 = 2.708 is between 0.4 · 6 and 0.5 · 6; log 3 = 1.099 between 0.5 · 2 and 0.6 · 2.
    expected = score * (1 + size) > np.log(3 * size)
    if row == "(0,0), (D,-D)":
        expected = True
    assert (float(error) == 0) == expected == (separation.oracle_margin(mixture, score) > 0)


def test_the_coefficient_of_self_attention_is_what_self_attention_computes():
    mixture, tokens, labels = examples("(0,0), (D,D)", 1.5)
    rng = np.random.default_rng(0)
    a, w = rng.normal(size=(3, 3)), rng.normal(size=3)
    outputs = separation.outputs("self-attention", {"w": w, "a": a}, tokens)
    for x, y, found in zip(np.asarray(tokens)[1::2], labels[1::2], outputs[1::2], strict=True):
        r = np.asarray(mixture.context + y * mixture.head)
        np.testing.assert_allclose(x[0], r, rtol=1e-6)
        expected = separation.self_attention_coefficient(r @ a @ r, 1.5, SHARE) * (w @ r)
        assert np.isclose(found, expected, rtol=1e-4)


def test_self_attention_has_no_score_above_its_bound_and_one_where_it_is_shown_to_win():
    scores = jnp.linspace(-80.0, 80.0, 4001)
    bound = max(1 / (1 - SHARE) ** 2, 1 / (SHARE * (1 - SHARE))) - 1
    assert np.isclose(bound, 4.3333, atol=1e-4)
    for size in (1.01 * bound, 5.0, 9.0):
        assert float(separation.self_attention_coefficient(scores, size, SHARE).max()) < 0
    for size in (1.0, 2.9):
        assert float(separation.self_attention_coefficient(scores, size, SHARE).max()) > 0


@pytest.mark.parametrize("row", sorted(separation.ROWS))
def test_no_random_parameters_go_under_a_floor(row):
    rng = np.random.default_rng(1)
    for size in (1.0, 5.0):
        _, tokens, labels = examples(row, size)
        for model in ("linear", "linear prompt-attention", "self-attention"):
            names = separation.MODELS[model][1]
            params = {
                name: 3 * rng.normal(size=(2000, *((3, 3) if name == "a" else (3,))))
                for name in names
            }
            errors = jax.jit(jax.vmap(separation.error, (None, 0, None, None)), static_argnums=0)(
                model, params, tokens, labels
            )
            assert float(errors.min()) >= separation.floor(model, row, size, SHARE) - 1e-6


def test_floors_are_those_of_the_table():
    def floors(model, size):
        return [separation.floor(model, row, size, SHARE) for row in separation.ROWS]

    assert floors("linear", 5.0) == [1 / 2, 0, 1 / 3]
    assert floors("linear", 0.3) == [0, 0, 0]
    assert floors("self-attention", 5.0) == [1 / 2, 0, 1 / 3]
    assert floors("self-attention", 4.0) == [0, 0, 0]
    assert floors("linear prompt-attention", 5.0) == [0, 1 / 4, 1 / 6]
    assert floors("prompt-attention", 5.0) == [0, 0, 0]


def test_training_finds_a_prompt_where_the_linear_head_cannot_be_right():
    _, tokens, labels = examples("(0,0), (D,D)", 5.0)
    settings = {"restarts": 24, "steps": 200, "rate": 0.1}
    train = jax.jit(
        lambda model: separation.train(model, tokens, labels, jax.random.key(0), **settings),
        static_argnums=0,
    )
    assert float(train("prompt-attention").min()) == 0
    assert float(train("linear").min()) == 0.5
