"""The network against closed forms and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from dpt_jax.models import T5Config, Transformer
from dpt_jax.prompts import DecomposedPrompt
from tests.models.random_weights import random_parameters

FORMS = {
    "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "t5_1_1": {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False},
}
SOURCE = np.array([[5, 9, 3, 17, 8, 1], [4, 11, 1, 0, 0, 0]], np.int32)
TARGET = np.array([[7, 12, 1], [20, 1, 0]], np.int32)
DECODER_INPUT = np.array([[0, 7, 12], [0, 20, 1]], np.int32)


def tiny(form, prompt=None):
    config = T5Config(
        vocab_size=24,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=6,
        mlp_dim=20,
        dropout_rate=0.1,
        **FORMS[form],
    )
    params = random_parameters(config, seed=3)
    if prompt is not None:
        params["prompt"] = jax.jit(prompt.initialize)(jax.random.key(3))
    return Transformer(config, prompt), params


@functools.partial(jax.jit, static_argnums=(0, 5))
def apply(network, params, source, decoder_input, target, enable_dropout=False, rngs=None):
    return network.apply(
        {"params": params},
        source,
        decoder_input,
        target,
        enable_dropout=enable_dropout,
        rngs=rngs,
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_both_factors_equal_finite_differences(form):
    network, params = tiny(form, DecomposedPrompt(length=5, embed_dim=16, bottleneck=3))
    backbone = {name: tree for name, tree in params.items() if name != "prompt"}

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(factors):
        logits = apply(network, {**backbone, "prompt": factors}, SOURCE, DECODER_INPUT, TARGET)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, TARGET)
        return jnp.sum(losses * (TARGET > 0))

    factors = {name: np.asarray(factor) for name, factor in params["prompt"].items()}
    _, gradient = loss_and_gradient(factors)
    assert {name: leaf.shape for name, leaf in gradient.items()} == {"A": (5, 3), "B": (3, 16)}
    # Small, as ReLU has corners: a wider step crosses some.
    step = 2e-3
    for name in ("A", "B"):
        numeric = np.zeros_like(factors[name])
        for index in np.ndindex(*numeric.shape):
            change = np.zeros_like(numeric)
            change[index] = step
            high, _ = loss_and_gradient({**factors, name: factors[name] + change})
            low, _ = loss_and_gradient({**factors, name: factors[name] - change})
            numeric[index] = (high - low) / (2 * step)
        scale = np.abs(numeric).max()
        assert scale > 1e-3
        np.testing.assert_allclose(gradient[name], numeric, atol=0.02 * scale, rtol=0.02)


@pytest.mark.slow
def test_a_prompts_place_is_in_front_of_the_text_for_the_position_bias():
    # Without any position bias, attention does not see order: the prompt could stand anywhere.
    # With it, a prompt that holds the embeddings of the first tokens must equal those tokens.
    network, params = tiny("t5_1_1", DecomposedPrompt(length=2, embed_dim=16, bottleneck=2))
    first = params["token_embedder"]["embedding"][SOURCE[:1, :2]][0]
    prompted = {**params, "prompt": {"A": np.eye(2, dtype=np.float32), "B": first}}
    target = DECODER_INPUT[:1], TARGET[:1]
    with_prompt = apply(network, prompted, SOURCE[:1, 2:], *target)
    backbone = {name: tree for name, tree in params.items() if name != "prompt"}
    plain = apply(Transformer(network.config), backbone, SOURCE[:1], *target)
    np.testing.assert_allclose(with_prompt, plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_padding_a_source_changes_no_logit(form):
    network, params = tiny(form)

    def logits(source):
        return apply(network, params, source, DECODER_INPUT, TARGET)

    padded = np.pad(SOURCE, ((0, 0), (0, 5)))
    np.testing.assert_allclose(
        np.asarray(logits(padded))[TARGET > 0], np.asarray(logits(SOURCE))[TARGET > 0], atol=1e-5
    )


@pytest.mark.slow
def test_dropout_changes_logits_by_its_key_and_only_when_enabled():
    network, params = tiny("t5_1_0")

    def logits(seed, enable):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(apply(network, params, SOURCE, DECODER_INPUT, TARGET, enable, rngs))

    np.testing.assert_array_equal(logits(0, False), logits(1, False))
    np.testing.assert_array_equal(logits(0, True), logits(0, True))
    assert np.abs(logits(0, True) - logits(1, True)).max() > 1e-3

    # The decoder's dropout alone would change the logits.
    @functools.partial(jax.jit, static_argnums=0)
    def encoded(enable):
        rngs = {"dropout": jax.random.key(0)}
        return network.apply({"params": params}, SOURCE, enable, rngs=rngs, method="encode")

    assert np.abs(np.asarray(encoded(True)) - np.asarray(encoded(False))).max() > 1e-3


def test_bfloat16_activations_leave_parameters_and_logits_float32():
    network, params = tiny("t5_1_1")
    half = Transformer(T5Config(**{**vars(network.config), "dtype": "bfloat16"}))
    logits = jax.eval_shape(lambda p: apply(half, p, SOURCE, DECODER_INPUT, TARGET), params)
    assert logits.dtype == jnp.float32
    own = jax.eval_shape(
        lambda: half.init(jax.random.key(0), SOURCE, DECODER_INPUT, TARGET, enable_dropout=False)[
            "params"
        ]
    )
    assert {leaf.dtype for leaf in flatten_dict(own, sep="/").values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mlp_activations", ("gelu", "linaer"), "of relu, gelu, silu, linear, not"),
        ("mlp_activations", (), "takes one activation"),
        ("logits_via_embedding", {}, "must be True or False"),
        ("dtype", "int8", "'int8'; it must be 'float32' or 'bfloat16'. Set --gin.DTYPE"),
        ("dtype", "float16x", "'float16x'; it must be 'float32' or 'bfloat16'. Set --gin.DTYPE"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused_by_its_configuration(field, value, message):
    with pytest.raises(ValueError, match=message):
        T5Config(**{"vocab_size": 8, field: value})
