"""The contextual mixture, its models and their gradients, against NumPy and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.errors import InputError
from dpt_jax.theory import contextual_mixture, in_law, prompt_attention, three_steps

SIZES = {"context_norm": 1.5, "head_norm": 0.8, "share": 0.25, "length": 12}
GENERAL = {"correlation": 0.3, "noise": 0.7, "shifts": ((0, 0), (0.5, -0.3)), "spread": (0.2, 0.1)}


def test_relevant_tokens_come_first_and_the_others_have_the_models_mean_and_covariance():
    mixture = contextual_mixture.general(3, **SIZES, **GENERAL)
    labels = contextual_mixture.draw_labels(jax.random.key(0), 4000, balanced=True)
    tokens = np.asarray(jax.jit(contextual_mixture.sample)(mixture, jax.random.key(1), labels))
    q, w = np.asarray(mixture.context), np.asarray(mixture.head)
    assert np.isclose(q @ w, 0.3 * 1.5 * 0.8, atol=1e-6)
    r = q + np.asarray(labels)[:, None] * w
    np.testing.assert_allclose(tokens[:, :3], np.broadcast_to(r[:, None], (4000, 3, 3)))
    positive = tokens[0::2, 3:]
    # E δq = (0 + 0.5)/2 + 0.1, E δw = (0 - 0.3)/2 + 0.05.
    np.testing.assert_allclose(positive.mean((0, 1)), -0.35 * q + 0.1 * w, atol=0.03)
    within = positive - positive.mean(axis=1, keepdims=True)
    assert np.isclose(within.var() * 9 / 8, 0.49, rtol=0.03)


def test_the_discrete_model_is_enumerated():
    shifts = ((0.0, 0.0), (2.0, 3.0))
    mixture = contextual_mixture.discrete(4, shifts=shifts, **SIZES)
    tokens, labels, which = map(np.asarray, contextual_mixture.enumerate_examples(mixture))
    assert sorted(zip(labels, which, strict=True)) == [(-1, 0), (-1, 1), (1, 0), (1, 1)]
    q, w = np.asarray(mixture.context), np.asarray(mixture.head)
    for x, y, k in zip(tokens, labels, which, strict=True):
        np.testing.assert_allclose(x[:3], np.tile(q + y * w, (3, 1)), rtol=1e-6)
        other = -shifts[k][0] * q - shifts[k][1] * y * w
        np.testing.assert_allclose(x[3:], np.tile(other, (9, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": 0.0}, "share is 0.0.*above 0 and below 1"),
        ({"share": 1.2}, "share is 1.2.*above 0 and below 1"),
        ({"share": 0.01}, "makes 0 relevant ones"),
        ({"correlation": 1.0}, "correlation is 1.0"),
        ({"shifts": ((-1.0, 0.0),)}, "0 or more"),
    ],
)
def test_settings_that_make_no_mixture_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        contextual_mixture.general(4, **{**SIZES, **changes})


@pytest.mark.parametrize("loss", sorted(prompt_attention.LOSSES))
@pytest.mark.parametrize("shape", [(1, 2, 3), (5, 7, 4), (3, 16, 9)])
def test_closed_form_gradients_equal_autodiff(loss, shape):
    rng = np.random.default_rng(sum(shape))
    with jax.enable_x64(True):
        tokens, labels = rng.normal(size=shape), np.sign(rng.normal(size=shape[0]))
        w, q = rng.normal(size=(2, shape[2]))
        found = jax.jit(prompt_attention.loss_gradients, static_argnums=4)(
            tokens, labels, w, q, loss
        )
        gradient = jax.grad(prompt_attention.mean_loss, argnums=(2, 3))
        expected = jax.jit(gradient, static_argnums=4)(tokens, labels, w, q, loss)
    for ours, autodiff in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, autodiff, rtol=0, atol=1e-10)


def test_the_rivals_are_their_formulas():
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(6, 4)), rng.normal(size=(4, 4))
    w, q, p = rng.normal(size=(3, 4))

    def softmax(scores):
        e = np.exp(scores)
        return e / e.sum(-1, keepdims=True)

    expected = {
        "linear": (w @ x.T @ np.ones(6) / 6, (w,)),
        "linear_prompt_attention": (w @ x.T @ x @ q / 6, (w, q)),
        "self_attention": (np.ones(6) @ softmax(x @ a @ x.T) @ x @ w / 6, (w, a)),
        "prompt_attention": (w @ x.T @ softmax(x @ q), (w, q)),
        "fine_tuned_prompt": (w @ x.T @ softmax(x @ a @ p), (w, a, p)),
    }
    for name, (value, parameters) in expected.items():
        found = getattr(prompt_attention, name)(jnp.asarray(x), *map(jnp.asarray, parameters))
        assert np.isclose(found, value, rtol=1e-4), name


# A few tokens of noise alone, where how the parts of the noise hang together is most of it.
NOISE = {"context_norm": 0.1, "head_norm": 0.1, "share": 0.25, "length": 4}


@pytest.mark.parametrize("what", ["pooled", "mean_and_covariance_times"])
@pytest.mark.parametrize("settings", [SIZES | GENERAL, NOISE], ids=["general", "noise"])
def test_what_is_drawn_in_law_has_the_moments_of_the_tokens(what, settings):
    mixture = contextual_mixture.general(3, **settings)
    count = 20_000
    labels = contextual_mixture.draw_labels(jax.random.key(0), count, balanced=True)
    vector = jnp.asarray([0.5, 0.9, -0.4])
    moments = {}
    for name, draws in three_steps.DRAWS.items():
        drawn = jax.jit(getattr(draws, what))(mixture, jax.random.key(2), labels, vector)
        joined = np.concatenate([np.atleast_2d(part) for part in jax.tree.leaves(drawn)], axis=1)
        joined = np.concatenate([joined, np.asarray(labels)[:, None] * joined], axis=1)
        moments[name] = (joined.mean(0), np.cov(joined.T), (joined**3).mean(0))
    scale = np.sqrt(np.diag(moments["tokens"][1]))
    # Products of a few Gaussians have heavy tails, and so uncertain moments.
    error = (6 if settings is not NOISE else 12) / np.sqrt(count)
    for order, (ours, tokens) in enumerate(zip(*moments.values(), strict=True)):
        by = np.outer(scale, scale) if order == 1 else scale ** (order + 1)
        assert np.abs((ours - tokens) / by).max() < error * (6 if order == 2 else 1)


@pytest.mark.slow
def test_a_test_error_in_law_is_that_of_drawn_tokens():
    mixture = contextual_mixture.core(3, **SIZES, noise=2.0)
    w, q = jnp.asarray([0.2, 1.0, 0.3]), jnp.asarray([0.6, 0.2, 0.3])
    labels = contextual_mixture.draw_labels(jax.random.key(0), 20_000, balanced=True)
    tokens = jax.jit(contextual_mixture.sample)(mixture, jax.random.key(1), labels)
    outputs = jax.jit(jax.vmap(prompt_attention.prompt_attention, (0, None, None)))(tokens, w, q)
    counted = float((labels * (outputs - 0.1) <= 0).mean())
    found = float(in_law.test_error(mixture, jax.random.key(2), w, q, 0.1, 4000))
    assert abs(found - counted) < 0.015
    attention = prompt_attention.attention_on(tokens, q, mixture.relevant).mean()
    assert abs(in_law.relevant_attention(mixture, jax.random.key(3), q) - attention) < 0.01
