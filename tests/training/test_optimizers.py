"""Orthogonal updates, against NumPy's singular value decomposition and Optax's own Adam."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpt_jax.errors import InputError
from dpt_jax.prompts import DecomposedPrompt, ResidualPrompt, SpectralPrompt, VanillaPrompt
from dpt_jax.training import schedules
from dpt_jax.training.optimizers import orthogonal, sgd_with_decay
from tests.support import runs

RNG = np.random.default_rng(0)
PARAMS = {
    "A": 3 * RNG.normal(size=(20, 4)).astype(np.float32),
    "B": RNG.normal(size=(4, 32)).astype(np.float32),
}


def gradients(step, params=PARAMS):
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=x.shape).astype(np.float32) for name, x in params.items()}


def trained(optimizer, params, grads):
    """The parameters after an update for each of the gradients."""
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for gradient in grads:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


def by_hand(w, grads, rates, momentum=0.9, keep_norm=True):
    """The formula of the docstring in float64, the polar factor exact."""
    w, m = w.astype(np.float64), 0.0
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), 1):
        m = momentum * m + (1 - momentum) * g.astype(np.float64)
        # Nesterov's, with Adam's correction of the first steps.
        ahead = momentum * m / (1 - momentum ** (t + 1)) + (1 - momentum) * g / (1 - momentum**t)
        u, _, vt = np.linalg.svd(ahead, full_matrices=False)
        norm = np.linalg.norm(w)
        w = w - rate * norm / np.sqrt(min(w.shape)) * (u @ vt)
        if keep_norm:
            w *= norm / np.linalg.norm(w)
    return w


@pytest.mark.parametrize("keep_norm", [True, False])
def test_ten_steps_are_those_of_the_exact_polar_factor(keep_norm):
    grads = [gradients(step) for step in range(10)]
    schedule = optax.linear_schedule(0.2, 0.02, 10)
    found = trained(orthogonal(schedule, keep_norm=keep_norm), PARAMS, grads)
    for name, start in PARAMS.items():
        own = [g[name] for g in grads]
        expected = by_hand(start, own, [float(schedule(t)) for t in range(10)], keep_norm=keep_norm)
        moved = np.linalg.norm(expected - start)
        # The iterations leave singular values within a few thousandths of 1, or 2 % at most.
        assert np.linalg.norm(found[name] - expected) < 0.02 * moved
        kept = abs(np.linalg.norm(found[name]) / np.linalg.norm(start) - 1) < 1e-5
        assert bool(kept) is keep_norm


def test_the_scale_of_gradients_and_of_the_start_does_not_matter():
    grads = [gradients(step) for step in range(3)]
    plain = trained(orthogonal(0.1), PARAMS, grads)
    louder = trained(orthogonal(0.1), PARAMS, jax.tree.map(lambda g: 1000 * g, grads))
    larger = trained(orthogonal(0.1), jax.tree.map(lambda x: 7 * x, PARAMS), grads)
    for name, expected in plain.items():
        np.testing.assert_allclose(louder[name], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(larger[name], 7 * expected, rtol=1e-3, atol=1e-4)


def test_what_is_no_matrix_is_trained_by_adam():
    params = {"scale": np.ones(5, np.float32), "kernel": PARAMS["B"]}
    grads = [gradients(step, params) for step in range(4)]
    found = trained(orthogonal(0.1), params, grads)
    alone = trained(
        optax.adam(0.1), {"scale": params["scale"]}, [{"scale": g["scale"]} for g in grads]
    )
    np.testing.assert_array_equal(found["scale"], alone["scale"])


def test_the_heads_of_a_vit_which_start_at_zero_are_trained_by_adam():
    head = {"kernel": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32)}
    params = {"head": head, "prompt_head": head, "prompt": {"B": PARAMS["B"]}}
    grads = [{name: gradients(step, part) for name, part in params.items()} for step in range(3)]
    found = trained(orthogonal(0.1), params, grads)
    for name in ("head", "prompt_head"):
        alone = trained(optax.adam(0.1), {name: head}, [{name: g[name]} for g in grads])
        jax.tree.map(np.testing.assert_array_equal, found[name], alone[name])
        assert found[name]["kernel"].all()
    [same] = trained(orthogonal(0.1), params["prompt"], [g["prompt"] for g in grads]).values()
    np.testing.assert_array_equal(found["prompt"]["B"], same)


def test_zeros_stay_and_give_no_nan():
    zero = {"A": np.zeros((4, 3), np.float32)}
    found = trained(orthogonal(0.1), zero, [gradients(0, zero)])
    assert not found["A"].any()
    still = trained(orthogonal(0.1), PARAMS, [jax.tree.map(np.zeros_like, PARAMS)])
    for name, start in PARAMS.items():
        np.testing.assert_allclose(still[name], start, rtol=1e-6)


@pytest.mark.parametrize(
    "prompt",
    [
        VanillaPrompt(100, 1024),
        DecomposedPrompt(100, 1024, 10),
        ResidualPrompt(100, 1024),
        SpectralPrompt(100, 1024),
    ],
)
def test_the_state_is_no_larger_than_adams(prompt):
    params = jax.eval_shape(prompt.initialize, jax.random.key(0))

    def size(optimizer):
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(optimizer.init, params)))

    assert size(orthogonal(0.1)) < size(optax.adam(0.1))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 3.0, np.nan])
def test_a_rate_that_is_no_share_is_refused(rate):
    message = r"LEARNING_RATE_PEAK is .*from 0 to below 1. Set --gin.LEARNING_RATE_PEAK"
    with pytest.raises(InputError, match=message):
        orthogonal(rate)
    with pytest.raises(InputError, match=message):
        orthogonal(optax.constant_schedule(rate))


def test_a_peak_that_comes_later_is_refused_before_training():
    def check(peak):
        schedule = functools.partial(schedules.linear_warmup_linear_decay, peak=peak)
        config = runs.run_config("run", "", optimizer=orthogonal, learning_rate=schedule)
        config.check_optimizer({"A": jnp.zeros((4, 3))}, 200)

    check(0.5)
    with pytest.raises(InputError, match=r"LEARNING_RATE_PEAK is 1.5, but a step of optimizers"):
        check(1.5)


@pytest.mark.interop
def test_sgd_decays_as_pytorchs_does_and_spares_the_heads_bias():
    import torch

    shapes = {"prompt": (3, 4), "kernel": (4, 2), "bias": (2,)}
    start = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    grads = [gradients(step, start) for step in range(5)]
    theirs = {name: torch.tensor(x, requires_grad=True) for name, x in start.items()}
    groups = [
        {"params": [theirs["prompt"], theirs["kernel"]], "weight_decay": 0.1},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9)
    for gradient in grads:
        for name, x in theirs.items():
            x.grad = torch.tensor(gradient[name])
        optimizer.step()

    def tree(x):
        return {"prompt": x["prompt"], "head": {"kernel": x["kernel"], "bias": x["bias"]}}

    ours = trained(sgd_with_decay(0.2, 0.9, 0.1), tree(start), map(tree, grads))
    expected = tree({name: x.detach().numpy() for name, x in theirs.items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, expected)


def test_a_warmup_rises_in_a_line_and_falls_along_a_cosine():
    schedule = schedules.linear_warmup_cosine(50, peak=0.4, warmup_fraction=0.2)
    rising = [0.4 * step / 10 for step in range(10)]
    falling = [0.2 * (1 + np.cos(np.pi * (step - 10) / 40)) for step in range(10, 51)]
    np.testing.assert_allclose([schedule(step) for step in range(51)], rising + falling, atol=1e-7)
    with pytest.raises(InputError, match="warmup_fraction is 2"):
        schedules.linear_warmup_cosine(50, warmup_fraction=2)
