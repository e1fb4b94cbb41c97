"""The three steps against NumPy on the same tokens, and against their expectations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.errors import InputError
from dpt_jax.theory import (
    contextual_mixture,
    exact_error,
    in_law,
    population,
    prompt_attention,
    three_steps,
)

CORE = {"context_norm": 1.2, "head_norm": 0.9, "share": 0.25, "length": 8}


def mixture_of(dim=3, **changes):
    return contextual_mixture.general(dim, **{**CORE, **changes})


# One program for every test that runs the steps in law on tokens of one shape.
@functools.partial(jax.jit, static_argnames=("batch", "balanced", "draws", "loss"))
def steps(mixture, key, count, batch=500, **settings):
    return three_steps.three_steps(
        mixture, key, count=count, batch=batch, **{"draws": "in law", **settings}
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss", sorted(prompt_attention.LOSSES))
def test_the_steps_are_gradient_steps_on_three_splits(loss):
    mixture, key, count, batch = mixture_of(noise=0.5), jax.random.key(3), 10, 4
    sizes = {"batch": batch, "step_w": 0.7, "step_q": 2.0}
    found = steps(mixture, key, count, **sizes, loss=loss, draws="tokens")
    splits = []
    for split in jax.random.split(key, 4)[:3]:
        parts = []
        for number in range(3):
            label_key, own = jax.random.split(jax.random.fold_in(split, number))
            labels = contextual_mixture.draw_labels(label_key, batch, balanced=True)
            parts.append((contextual_mixture.sample(mixture, own, labels), labels))
        splits.append([jnp.concatenate(leaves)[:count] for leaves in zip(*parts, strict=True)])
    gradients = jax.jit(
        jax.grad(functools.partial(prompt_attention.mean_loss, loss=loss), argnums=(2, 3))
    )
    zero = jnp.zeros(3)
    w1 = -0.7 * gradients(*splits[0], zero, zero)[0]
    q1 = -2.0 * gradients(*splits[1], w1, zero)[1]
    w2 = -0.7 * gradients(*splits[2], w1, q1)[0]
    for ours, expected in ((found.w1, w1), (found.q1, q1), (found.w2, w2)):
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=1e-6)
    read = jax.vmap(prompt_attention.pooled, (0, None))(splits[2][0], q1).mean(0)
    np.testing.assert_allclose(found.mean_read, read, rtol=1e-4, atol=1e-6)


def test_the_readings_of_debiasing():
    q1, w2, mean = jnp.asarray([2.0, 0.0]), jnp.asarray([3.0, 4.0]), jnp.asarray([1.0, 1.0])
    est = three_steps.Estimates(w2, q1, w2, mean, 2 * mean)
    assert float(est.debiased("none").offset) == 0
    assert float(est.debiased("mean").offset) == 7
    assert float(est.debiased("fresh mean").offset) == 14
    np.testing.assert_allclose(est.debiased("projection").w, [0, 4])
    with pytest.raises(InputError, match="fresh=True"):
        est._replace(fresh_mean_read=None).debiased("fresh mean")


@pytest.mark.slow
def test_the_first_head_has_its_expectation_for_every_mixture():
    mixture = mixture_of(correlation=0.4, shifts=((0, 0), (0.5, 0.2)), spread=(0.1, 0.2))
    w1 = steps(mixture, jax.random.key(0), 50_000, step_w=2.0, step_q=1.0).w1
    expected = population.expected_w1(mixture, 2.0)
    # 2 (1/4 - 3/4 · (0.1 + 0.1)) of w*.
    np.testing.assert_allclose(expected, 0.2 * mixture.head, rtol=1e-5)
    np.testing.assert_allclose(w1, expected, atol=0.012)


@pytest.mark.slow
@pytest.mark.parametrize("step_w", [0.5, 6.0])
def test_the_query_and_the_second_head_have_their_expectations(step_w):
    mixture = mixture_of(noise=0.8)
    found = steps(mixture, jax.random.key(1), 100_000, step_w=step_w, step_q=1.0)
    expected = population.expected_q1(mixture, step_w)
    size = float(jnp.linalg.norm(expected))
    np.testing.assert_allclose(found.q1, expected, atol=0.05 * size)
    # Many tokens, for the second head.
    mixture = mixture_of(length=800, noise=0.8)
    found = steps(mixture, jax.random.key(2), 1000, 100, step_w=step_w, query_norm=0.8)
    expected = population.expected_w2(mixture, step_w, 0.8)
    np.testing.assert_allclose(found.w2, expected, atol=0.03 * float(jnp.linalg.norm(expected)))


@pytest.mark.slow
def test_with_a_correlation_small_steps_give_the_predicted_direction():
    mixture = mixture_of(correlation=0.5, noise=0.5)
    q1 = steps(mixture, jax.random.key(1), 100_000, step_w=0.01, step_q=1.0).q1
    q1, _ = in_law.direction_of(q1)
    direction, _ = in_law.direction_of(population.small_step_direction(mixture))
    np.testing.assert_allclose(q1, direction, atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [True, False])
def test_the_angles_with_few_examples_are_the_predicted_ones(balanced):
    mixture = mixture_of(20, context_norm=2.0, head_norm=0.3, share=0.2, length=50)
    keys = jax.random.split(jax.random.key(0), 100)
    sizes = {"step_w": 1.0, "query_norm": 1.0, "balanced": balanced}
    found = jax.vmap(lambda key: steps(mixture, key, 300, 100, **sizes))(keys)
    scales = population.scales_of(mixture)
    for name, true, predicted in (
        ("w1", mixture.head, population.w1_miss),
        ("q1", mixture.context, population.q1_miss),
    ):
        # tan² in the mean is the mean of squares across over that along.
        vectors = np.asarray(getattr(found, name))
        along = vectors @ np.asarray(in_law.direction_of(true)[0])
        across = (vectors**2).sum(1) - along**2
        miss = across.mean() / along.mean() ** 2
        assert np.isclose(miss, predicted(scales, 20, 300, balanced), rtol=0.25), name


@pytest.mark.slow
def test_the_signal_that_a_query_reads_and_its_attention():
    mixture = mixture_of(4, context_norm=2.0, head_norm=0.3, share=0.1, length=4000)
    scales = population.scales_of(mixture)
    labels = contextual_mixture.draw_labels(jax.random.key(0), 2000, balanced=True)
    across = jnp.zeros(4).at[2].set(1.0)
    for query, error in ((0.0, 0.0), (0.5, 0.0), (0.5, 0.4)):
        q = mixture.context * query / 2 + across * error
        u = np.asarray(in_law.pooled(mixture, jax.random.key(1), labels, q))
        signal = (u[:, 1] * np.asarray(labels)).mean() / u[:, 3].std()
        assert np.isclose(signal, population.signal_to_noise(scales, query, error), rtol=0.08)
        attention = in_law.relevant_attention(mixture, jax.random.key(1), q)
        assert np.isclose(attention, population.relevant_attention(scales, query, error), rtol=0.02)


def test_steps_that_are_too_large_are_refused_with_the_largest():
    mixture = mixture_of()
    largest = population.largest_step(mixture)
    assert float(population.expected_q1(mixture, 0.99 * largest)[0]) > 0
    assert float(population.expected_q1(mixture, 1.01 * largest)[0]) < 0
    with pytest.raises(InputError, match=f"diverge.*{largest:.4g}"):
        three_steps.check_step(mixture, 1.01 * largest)
    three_steps.check_step(mixture, 0.99 * largest)
    assert math.isinf(population.largest_step(mixture_of(head_norm=0.1, length=4)))


@pytest.mark.parametrize(
    ("count", "batch", "said"),
    [(1, 2, "needs 2 examples"), (7, 2, "n is 7.*8"), (8, 3, "batch is 3.*4")],
)
def test_splits_that_cannot_be_drawn_are_refused(count, batch, said):
    with pytest.raises(InputError, match=said):
        three_steps.check_splits(count, batch, balanced=True)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.5, 4.0])
def test_the_exact_error_is_the_measured_one(ratio):
    dim, signal = 60, 1.2
    fit = jax.jit(exact_error.least_squares_head)
    rng = np.random.default_rng(0)
    mean = np.zeros(dim)
    mean[0] = signal
    errors = []
    for _ in range(25):
        labels = rng.choice([-1.0, 1.0], round(ratio * dim))
        read = labels[:, None] * mean + rng.normal(size=(len(labels), dim))
        w = np.asarray(fit(read, labels))
        np.testing.assert_allclose(w, np.linalg.lstsq(read, labels)[0], atol=2e-4)
        errors.append(0.5 * math.erfc(w @ mean / np.linalg.norm(w) / math.sqrt(2)))
    predicted = exact_error.predicted_error(signal, ratio)
    assert abs(np.mean(errors) - predicted) < 3 * np.std(errors) / math.sqrt(25) + 0.004
    assert np.isclose(exact_error.predicted_error(signal, math.inf), 0.11507, atol=1e-5)
    with pytest.raises(InputError, match="more examples than dimensions"):
        exact_error.predicted_error(signal, 1.0)
