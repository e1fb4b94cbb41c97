"""The step against a loss, gradients and updates written out independently."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpt_jax.errors import InputError
from dpt_jax.models import Transformer
from dpt_jax.problems.loss import make_loss_fn, token_loss
from dpt_jax.prompts import DecomposedPrompt
from dpt_jax.training.schedules import constant, linear_warmup_linear_decay
from dpt_jax.training.state import TrainState, merge_params, split_params
from dpt_jax.training.step import make_train_step
from tests.support import runs


@pytest.fixture(scope="module")
def problem():
    """A prompted model, its trainable and frozen parameters, and a batch of uneven targets."""
    prompt = DecomposedPrompt(runs.PROMPT_LENGTH, runs.WIDTH, runs.BOTTLENECK)
    model = Transformer(runs.T5, prompt)
    prompt_params = jax.jit(prompt.initialize)(jax.random.key(1))
    params = runs.random_parameters() | {"prompt": prompt_params}
    rng = np.random.default_rng(0)
    inputs = rng.integers(3, 200, (8, 16)).astype(np.int32)
    targets = rng.integers(3, 200, (8, 6)).astype(np.int32)
    for row, length in enumerate([1, 6, 2, 2, 5, 1, 3, 0]):
        targets[row, length:] = 0
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
    }
    return model, *split_params(params, "prompt/.*"), batch


def mean_loss(model, trainable, frozen, batch):
    """The mean over the real target tokens, by Optax's cross-entropy."""
    logits = model.apply(
        {"params": frozen | trainable},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        enable_dropout=False,
    )
    labels = batch["decoder_target_tokens"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(losses * (labels > 0)) / np.sum(labels > 0)


@pytest.fixture(scope="module")
def expected(problem):
    """The mean loss and its gradients."""
    model, trainable, frozen, batch = problem
    return jax.jit(jax.value_and_grad(lambda t: mean_loss(model, t, frozen, batch)))(trainable)


def updated(problem, optimizer, microbatches=1):
    model, trainable, frozen, batch = problem
    step = jax.jit(make_train_step(make_loss_fn(model), optimizer, microbatches))
    state, metrics = step(TrainState.create(trainable, optimizer, 0), frozen, batch)
    return state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 4])
def test_microbatches_take_the_step_of_the_whole_batch(problem, expected, microbatches):
    loss, gradients = expected
    keeps_gradients = optax.GradientTransformation(lambda p: p, lambda u, s, p=None: (u, u))
    state, metrics = updated(problem, keeps_gradients, microbatches)
    for name, gradient in gradients["prompt"].items():
        # Up to 0.13, of float32 sums in another order.
        np.testing.assert_allclose(state.opt_state["prompt"][name], gradient, atol=5e-6)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert metrics["target_tokens"] == 20
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients)))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.slow
def test_the_optimizer_never_meets_a_frozen_parameter(problem):
    met = []

    def update(updates, state, params=None):
        met.append((jax.tree.map(jnp.shape, updates), jax.tree.map(jnp.shape, params)))
        return updates, state

    updated(problem, optax.GradientTransformation(lambda p: (), update))
    shapes = {"prompt": {"A": (4, 2), "B": (2, 16)}}
    assert met == [(shapes, shapes)]
    state, _ = updated(problem, optax.adamw(0.1))
    assert sorted(jnp.shape(x) for x in jax.tree.leaves(state.opt_state)) == [
        (), (2, 16), (2, 16), (4, 2), (4, 2)
    ]  # fmt: skip


def test_the_loss_does_not_see_padding_and_adds_z_loss():
    logits = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)
    targets = np.array([[3, 1, 0], [6, 0, 0]])
    total, count = jax.jit(functools.partial(token_loss, z_loss=0.1))(logits, targets)
    expected = 0.0
    for row, position in ((0, 0), (0, 1), (1, 0)):
        scores = np.asarray(logits[row, position], np.float64)
        log_z = np.log(np.exp(scores).sum())
        expected += log_z - scores[int(targets[row, position])] + 0.1 * log_z**2
    assert (float(total), float(count)) == (pytest.approx(expected, rel=1e-6), 3)


@pytest.mark.slow
def test_dropout_differs_from_step_to_step_and_repeats_with_the_seed(problem):
    _, trainable, frozen, batch = problem
    config = runs.T5.__class__(emb_dim=runs.WIDTH, dropout_rate=0.5, **runs.SIZES)
    prompt = DecomposedPrompt(runs.PROMPT_LENGTH, runs.WIDTH, runs.BOTTLENECK)
    optimizer = optax.sgd(0.0)
    step = jax.jit(make_train_step(make_loss_fn(Transformer(config, prompt)), optimizer))

    def losses(seed):
        state, found = TrainState.create(trainable, optimizer, seed), []
        for _ in range(2):
            state, metrics = step(state, frozen, batch)
            found.append(float(metrics["loss"]))
        return found

    assert losses(0) == losses(0)
    assert len({*losses(0), *losses(1)}) == 4


def test_splitting_and_merging_gives_back_the_tree():
    params = {"a": {"b": 1, "c": 2}, "prompt": {"A": 3}}
    train, frozen = split_params(params, "prompt/.*|a/c")
    assert (train, frozen) == ({"a": {"c": 2}, "prompt": {"A": 3}}, {"a": {"b": 1}})
    assert merge_params(train, frozen) == params
    assert split_params(params, ".*") == (params, {})
    with pytest.raises(InputError, match="No parameter matches .*'promt/.*'.*a/b"):
        split_params(params, "promt/.*")


@pytest.mark.parametrize("steps", [1, 5, 10, 137])
def test_schedules_follow_their_formulas(steps):
    schedule = linear_warmup_linear_decay(steps, peak=0.3)
    warmup = max(1, round(steps / 10))
    for i in range(steps):
        rate = 0.3 * i / warmup if i < warmup else 0.3 * (steps - i) / (steps - warmup)
        assert float(schedule(i)) == pytest.approx(rate, abs=1e-6)
        assert float(constant(steps, peak=0.2)(i)) == pytest.approx(0.2)
