"""Our network against T5X's: from checkpoints and logits that T5X wrote, and in one process."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import unfreeze
from flax.traverse_util import flatten_dict

from dpt_jax.interop import load_backbone
from dpt_jax.interop.parameters import parameter_shapes
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prompts import VanillaPrompt
from tests.models.random_weights import random_parameters

GOLDENS = Path(__file__).parents[3] / "shared" / "data" / "t5x_goldens"
FORMS = {
    "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "t5_1_1": {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False},
}


def jitted_logits(network, params, batch):
    apply = jax.jit(functools.partial(network.apply, enable_dropout=False))
    return np.asarray(apply({"params": params}, *batch), np.float32)


@pytest.fixture(scope="module", params=FORMS)
def golden(request):
    folder = GOLDENS / request.param
    if not folder.exists():
        pytest.skip("the checkpoints and logits that T5X wrote are not on this machine")
    expected = np.load(folder / "expected.npz")
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    return load_backbone(folder / "checkpoint_3"), [expected[name] for name in names], expected


@pytest.mark.slow
def test_a_t5x_checkpoint_gives_t5xs_logits(golden):
    (config, params), batch, expected = golden
    logits = jitted_logits(Transformer(config), params, batch)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_t5x_checkpoint_with_a_prompt_gives_t5xs_prompted_logits(golden):
    (config, params), batch, expected = golden
    prompt = expected["prompt"]
    network = Transformer(config, VanillaPrompt(*prompt.shape))
    logits = jitted_logits(network, {**params, "prompt": {"prompt": prompt}}, batch)
    np.testing.assert_allclose(logits, expected["prompted_logits"], atol=1e-4, rtol=0)


@pytest.fixture(scope="module", params=FORMS)
def live(request):
    """T5X's network with random parameters, the sizes it was made of, and a padded batch."""
    network = pytest.importorskip("t5x.examples.t5.network", reason="T5X is not on PYTHONPATH")
    sizes = {
        "vocab_size": 64,
        "emb_dim": 32,
        "num_heads": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "head_dim": 6,
        "mlp_dim": 40,
        **FORMS[request.param],
    }
    rng = np.random.default_rng(0)
    source = rng.integers(2, 64, (2, 140)).astype(np.int32)
    target = rng.integers(2, 64, (2, 5)).astype(np.int32)
    source[1, 12:], target[1, 3:] = 0, 0
    batch = (source, np.pad(target, ((0, 0), (1, 0)))[:, :-1], target)
    params = random_parameters(T5Config(**sizes))

    def t5x(dtype=jnp.float32):
        return network.Transformer(network.T5Config(**sizes, dtype=dtype))

    return sizes, params, batch, t5x


@pytest.mark.t5x
def test_the_parameters_are_t5xs_by_name_shape_dtype_and_logical_axes(live):
    sizes, _, batch, t5x = live

    def described(network):
        variables = jax.eval_shape(
            lambda: network.init(jax.random.key(0), *batch, enable_dropout=False)
        )
        params, axes = (
            flatten_dict(unfreeze(variables["params"]), sep="/"),
            unfreeze(variables["params_axes"]),
        )
        return {name: (leaf.shape, leaf.dtype) for name, leaf in params.items()}, flatten_dict(
            axes, sep="/"
        )

    params, axes = described(t5x())
    assert described(Transformer(T5Config(**sizes))) == (params, axes)
    assert parameter_shapes(T5Config(**sizes)) == {name: leaf[0] for name, leaf in params.items()}


@pytest.mark.t5x
@pytest.mark.slow
def test_new_parameters_are_spread_as_t5x_spreads_them(live):
    sizes, _, batch, t5x = live

    def spread(network):
        init = jax.jit(functools.partial(network.init, enable_dropout=False))
        return flatten_dict(unfreeze(init(jax.random.key(0), *batch))["params"], sep="/")

    ours, theirs = spread(Transformer(T5Config(**sizes))), spread(t5x())
    for name in theirs:
        # A sample's standard deviation over n numbers is itself uncertain by about 1/sqrt(2n).
        rtol = 6 / np.sqrt(theirs[name].size)
        np.testing.assert_allclose(ours[name].std(), theirs[name].std(), rtol=rtol, err_msg=name)


@pytest.mark.slow
@pytest.mark.t5x
def test_float32_logits_equal_t5xs(live):
    sizes, params, batch, t5x = live
    ours = jitted_logits(Transformer(T5Config(**sizes)), params, batch)
    np.testing.assert_allclose(ours, jitted_logits(t5x(), params, batch), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.t5x
def test_bfloat16_logits_are_as_near_to_float32_as_t5xs(live):
    sizes, params, batch, t5x = live
    real = batch[2] > 0
    exact = jitted_logits(t5x(), params, batch)[real]
    theirs = jitted_logits(t5x(jnp.bfloat16), params, batch)[real]
    ours = jitted_logits(Transformer(T5Config(**sizes, dtype="bfloat16")), params, batch)[real]

    def error(logits):
        return np.sqrt(np.mean((logits - exact) ** 2))

    # Two roundings of one computation: neither is right, but none may be much worse.
    assert 0 < error(ours) < 1.3 * error(theirs)
    np.testing.assert_allclose(ours, theirs, atol=0.1 * exact.std(), rtol=0)
