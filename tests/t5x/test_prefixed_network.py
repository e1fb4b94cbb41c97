"""Prefixes inside T5X's own network and stock model, against our network with the same prefix."""

import functools

import jax
import numpy as np
import pytest

pytest.importorskip("t5x", reason="T5X is not on PYTHONPATH: docs/t5x.md", exc_type=ImportError)

from t5x import decoding
from t5x.examples.t5 import network

from dpt_jax.errors import InputError
from dpt_jax.models import Transformer
from dpt_jax.models.decoding import beam_search, greedy_decode
from dpt_jax.prefixes import STACKS, DecomposedPrefix, FreePrefix, SimpleSharedPrefix
from dpt_jax.prompts import VanillaPrompt
from dpt_jax.t5x.prompted_network import PromptedTransformer
from tests.models.random_weights import random_parameters
from tests.t5x import tiny

pytestmark = pytest.mark.t5x

PREFIXES = {
    "all stacks": FreePrefix(3, STACKS),
    "in front, first layer": FreePrefix(3, STACKS, layers="first", position_bias="front"),
    "in front": DecomposedPrefix(3, STACKS, position_bias="front", bottleneck=2),
    "encoder": SimpleSharedPrefix(3, ("encoder",)),
    "simple": SimpleSharedPrefix(3, STACKS),
}


def t5x_model(module, decode_fn):
    return tiny.model(module.config, module.prompt, decode_fn=decode_fn, prefix=module.prefix)


@pytest.fixture(scope="module", params=PREFIXES)
def both(request):
    """Ours and T5X's network with a prefix and a prompt, and their parameters."""
    config, prefix = tiny.config(), PREFIXES[request.param]
    prompt = VanillaPrompt(2, tiny.WIDTH) if request.param == "in front" else None
    params = random_parameters(config)
    params["prefix"] = jax.jit(lambda key: prefix.initialize(key, config))(jax.random.key(1))
    if prompt is not None:
        params["prompt"] = prompt.initialize(jax.random.key(2))
    params = jax.tree.map(np.asarray, params)
    return Transformer(config, prompt, prefix), PromptedTransformer(config, prompt, prefix), params


@pytest.fixture(scope="module")
def tokens():
    batch = tiny.batch()
    return [
        batch[f"{name}_tokens"] for name in ("encoder_input", "decoder_input", "decoder_target")
    ]


def test_parameters_have_one_tree(both, tokens):
    ours, theirs, params = both
    found = jax.eval_shape(lambda key: theirs.init(key, *tokens), jax.random.key(0))
    assert jax.tree.map(np.shape, found["params"]) == jax.tree.map(np.shape, params)
    assert set(found["params_axes"]) >= {"prefix"}


@pytest.mark.slow
def test_logits_and_gradients_are_ours(both, tokens):
    ours, theirs, params = both

    def logits(model, own):
        variables = {"params": params | {"prefix": own}}
        found = model.apply(variables, *tokens, enable_dropout=False)
        real = tokens[2] > 0
        return np.float32(0) + (found * real[..., None]).sum(), found * real[..., None]

    compute = jax.jit(jax.value_and_grad(logits, argnums=1, has_aux=True), static_argnums=0)
    (_, found), gradient = compute(theirs, params["prefix"])
    (_, expected), expected_gradient = compute(ours, params["prefix"])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    for name, array in expected_gradient.items():
        np.testing.assert_allclose(gradient[name], array, atol=1e-4 * np.abs(array).max())


@pytest.mark.slow
def test_decoding_with_the_cache_is_ours(both):
    ours, theirs, params = both
    batch = tiny.batch()
    source, length = batch["encoder_input_tokens"], tiny.TARGET

    greedy = functools.partial(decoding.temperature_sample, temperature=0.0)
    found = jax.jit(t5x_model(theirs, greedy).predict_batch)(params, batch)
    expected = jax.jit(functools.partial(greedy_decode, ours, max_decode_length=length))
    np.testing.assert_array_equal(found, expected(params, source))

    search = functools.partial(
        t5x_model(theirs, decoding.beam_search).predict_batch_with_aux,
        return_all_decodes=True,
        num_decodes=3,
    )
    found, aux = jax.jit(search)(params, batch, rng=jax.random.key(0))
    expected, scores = jax.jit(
        functools.partial(beam_search, ours, max_decode_length=length, beam_size=3)
    )(params, source)
    # T5X puts the best last.
    np.testing.assert_array_equal(found[:, ::-1], expected)
    # T5X does not penalize what has not ended.
    ended = (np.asarray(expected) == 1).any(axis=(1, 2))
    np.testing.assert_allclose(aux["scores"][ended, ::-1], scores[ended], rtol=1e-4)


def test_frozen_t5x_without_a_prefix_is_as_it_was(tokens):
    # The interception ends with the call.
    config = tiny.config()
    params = random_parameters(config)
    plain = network.Transformer(config)
    compute = jax.jit(
        lambda p: plain.apply({"params": p}, *tokens, enable_dropout=False, decode=False)
    )
    expected = compute(params)
    prefixed = PromptedTransformer(config, None, FreePrefix(3, STACKS))
    jax.eval_shape(lambda key: prefixed.init(key, *tokens), jax.random.key(0))
    jax.clear_caches()
    np.testing.assert_array_equal(compute(params), expected)


def test_neither_prompt_nor_prefix_is_refused(tokens):
    with pytest.raises(InputError, match="PROMPT is None and PREFIX is None"):
        PromptedTransformer(tiny.config()).init(jax.random.key(0), *tokens)
