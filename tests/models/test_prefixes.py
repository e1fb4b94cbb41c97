"""Prefixes in the network: against NumPy, the frozen layers, finite differences, decoding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models import T5Config, Transformer, decoding
from dpt_jax.models.network import fold_prefix
from dpt_jax.prefixes import (
    STACKS,
    DecomposedPrefix,
    DeepSharedPrefix,
    FreePrefix,
    OneLayerSharedPrefix,
    Prefix,
    PrefixPerRow,
    SeparatePrefix,
    SimpleSharedPrefix,
    as_free,
)
from tests.models import numpy_t5
from tests.models.random_weights import random_parameters

CONFIG = T5Config(
    vocab_size=64,
    emb_dim=24,
    num_heads=3,
    num_encoder_layers=3,
    num_decoder_layers=2,
    head_dim=6,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)
# What every method is tried with: the fewest layers, of which a stack has several.
SHALLOW = dataclasses.replace(CONFIG, num_encoder_layers=2, num_decoder_layers=1)
N = 4
METHODS = {
    "free": FreePrefix(N, STACKS),
    "simple": SimpleSharedPrefix(N, STACKS),
    "deep": DeepSharedPrefix(N, STACKS, hidden_dim=5),
    "deep across layers": DeepSharedPrefix(N, STACKS, hidden_dim=5, across_layers=True),
    "one layer": OneLayerSharedPrefix(N, STACKS),
    "separate": SeparatePrefix(N, STACKS, hidden_dim=5),
    "decomposed": DecomposedPrefix(N, STACKS, bottleneck=2),
    "decomposed across layers": DecomposedPrefix(N, STACKS, bottleneck=2, across_layers=True),
}
# Without padding, which the reference does not know. Targets longer than a head is wide are
# attended to in another way than shorter ones.
SOURCE = np.random.default_rng(1).integers(2, 64, (2, 9)).astype(np.int32)
TARGET = np.random.default_rng(2).integers(2, 64, (2, 8)).astype(np.int32)
DECODER_INPUT = np.pad(TARGET, ((0, 0), (1, 0)))[:, :-1]


@pytest.fixture(scope="module")
def backbone():
    return random_parameters(CONFIG)


@pytest.fixture(scope="module")
def shallow():
    return random_parameters(SHALLOW)


def started(prefix, backbone, seed=0, config=CONFIG):
    """The network with a prefix, and all of its parameters."""
    own = jax.jit(lambda key: prefix.initialize(key, config))(jax.random.key(seed))
    return Transformer(config, prefix=prefix), backbone | {"prefix": jax.tree.map(np.asarray, own)}


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, source=SOURCE, decoder_input=DECODER_INPUT, target=TARGET):
    variables = {"params": params}
    return model.apply(variables, source, decoder_input, target, enable_dropout=False)


def folded(model, params):
    """The same network with the prefix as plain arrays."""
    arrays = fold_prefix(model, params)
    return model.clone(prefix=as_free(model.prefix)), params | {"prefix": arrays}


@pytest.mark.slow
@pytest.mark.parametrize("target_length", [3, 8])
@pytest.mark.parametrize("layers", ["all", "first"])
@pytest.mark.parametrize("position_bias", ["none", "front"])
def test_attends_to_the_concatenation(backbone, position_bias, layers, target_length):
    prefix = FreePrefix(N, STACKS, layers, position_bias)
    model, params = started(prefix, backbone)
    decoder_input, target = DECODER_INPUT[:, :target_length], TARGET[:, :target_length]
    found = logits(model, params, SOURCE, decoder_input, target)
    for row in range(2):
        expected = numpy_t5.logits(
            *(CONFIG, params, SOURCE[row], decoder_input[row], params["prefix"]),
            in_front=position_bias == "front",
        )
        np.testing.assert_allclose(found[row], expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("stack", STACKS)
def test_acts_on_one_stack_alone(backbone, stack):
    model, params = started(FreePrefix(N, (stack,)), backbone)
    assert set(params["prefix"]) == {f"{stack}_keys", f"{stack}_values"}
    expected = numpy_t5.logits(CONFIG, params, SOURCE[0], DECODER_INPUT[0], params["prefix"])
    np.testing.assert_allclose(logits(model, params)[0], expected, atol=1e-3)


@pytest.mark.slow
def test_no_prefix_token_is_the_frozen_model(backbone):
    class Nothing(Prefix):
        def keys_and_values(self, stack):
            empty = jnp.zeros((stack.num_layers, 0, stack.num_heads, stack.head_dim))
            return empty, empty

    model = Transformer(CONFIG, prefix=Nothing(1, STACKS))
    np.testing.assert_array_equal(logits(model, backbone), logits(Transformer(CONFIG), backbone))


@pytest.mark.slow
def test_closed_prefix_is_the_frozen_model(backbone):
    # One target position and one layer, whose query is known: keys that point away from it.
    config = T5Config(**{**_sizes(CONFIG), "num_decoder_layers": 1})
    params = random_parameters(config)
    layer = params["decoder"]["layers_0"]
    x = params["token_embedder"]["embedding"][[0]]
    scale = layer["pre_self_attention_layer_norm"]["scale"]
    y = x / np.sqrt(np.mean(x**2) + 1e-6) * scale
    query = (y @ layer["self_attention"]["query"]["kernel"]).reshape(config.num_heads, -1)
    away = -1e4 * query / np.sum(query**2, axis=-1, keepdims=True)
    keys = np.broadcast_to(away, (1, N, *away.shape))
    values = np.full_like(keys, 7.0)
    prefix = {"decoder_keys": keys, "decoder_values": values}
    one = (SOURCE[:1], np.zeros((1, 1), np.int32), TARGET[:1, :1])
    found = logits(
        Transformer(config, prefix=FreePrefix(N, ("decoder",))), params | {"prefix": prefix}, *one
    )
    np.testing.assert_allclose(found, logits(Transformer(config), params, *one), atol=1e-5)


def _sizes(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@pytest.mark.parametrize("normalize", [True, False])
def test_simple_share_is_a_row_through_the_frozen_layer(backbone, normalize):
    model, params = started(SimpleSharedPrefix(N, STACKS, normalize=normalize), backbone)
    arrays = fold_prefix(model, params)
    encoder, decoder = backbone["encoder"], backbone["decoder"]
    places = {
        "encoder": (
            encoder,
            "attention",
            lambda i: encoder[f"layers_{i}"]["pre_attention_layer_norm"],
        ),
        "decoder": (
            decoder,
            "self_attention",
            lambda i: decoder[f"layers_{i}"]["pre_self_attention_layer_norm"],
        ),
        "cross": (decoder, "encoder_decoder_attention", lambda i: encoder["encoder_norm"]),
    }
    for stack, (weights, attention, norm) in places.items():
        rows = np.asarray(params["prefix"][f"{stack}_rows"], np.float64)
        assert rows.shape == (CONFIG.num_encoder_layers if stack == "encoder" else 2, N, 24)
        for i, own in enumerate(rows):
            if normalize:
                own = own / np.sqrt(np.mean(own**2, -1, keepdims=True) + 1e-6) * norm(i)["scale"]
            for name, kernel in (("keys", "key"), ("values", "value")):
                expected = own @ weights[f"layers_{i}"][attention][kernel]["kernel"]
                found = arrays[f"{stack}_{name}"][i].reshape(N, -1)
                np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_folds_into_plain_arrays(shallow, name):
    model, params = started(METHODS[name], shallow, config=SHALLOW)
    plain, plain_params = folded(model, params)
    for stack in STACKS:
        layers = 2 if stack == "encoder" else 1
        for kind in ("keys", "values"):
            array = plain_params["prefix"][f"{stack}_{kind}"]
            assert array.shape == (layers, N, 3, 6) and array.dtype == np.float32
    found, expected = logits(plain, plain_params), logits(model, params)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    # The arrays are those that the network attends to, bit for bit.
    bound = model.bind({"params": params})
    for stack in STACKS:
        layers = bound.compute_prefix(stack).layers
        keys = np.stack([keys[0].swapaxes(0, 1) for keys, _ in layers])
        np.testing.assert_array_equal(keys, plain_params["prefix"][f"{stack}_keys"])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_finite_differences(shallow, name):
    model, params = started(METHODS[name], shallow, config=SHALLOW)

    @jax.jit
    @jax.value_and_grad
    def loss(own):
        found = logits(model, params | {"prefix": own})
        return jnp.mean(jax.nn.log_softmax(found)[..., 5])

    own = params["prefix"]
    gradient = jax.device_get(loss(own)[1])
    # Along the gradient itself, where the derivative is largest against float32's rounding.
    norm = float(np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient))))
    step = 1e-2
    ahead, behind = (
        loss(jax.tree.map(lambda p, g: p + sign * step / norm * g, own, gradient))[0]  # noqa: B023
        for sign in (1, -1)
    )
    assert float(ahead - behind) / (2 * step) == pytest.approx(norm, rel=1e-2)
    assert all(np.any(g) for g in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("position_bias", ["none", "front"])
@pytest.mark.parametrize("layers", ["all", "first"])
def test_cached_decoding_is_decoding_without_a_cache(backbone, layers, position_bias):
    prefix = FreePrefix(N, STACKS, layers, position_bias)
    model, params = started(prefix, backbone)
    expected = logits(model, params)
    length = TARGET.shape[1]

    @functools.partial(jax.jit, static_argnums=1)
    def step_by_step(params, projected):
        def apply(method, *args, **kwargs):
            return model.apply({"params": params}, *args, **kwargs, method=method)

        encoded = apply("encode", SOURCE, enable_dropout=False)
        memory = apply("project_encoded", encoded) if projected else None
        caches = apply("empty_caches", 2, length)

        def step(caches, i):
            tokens = jnp.asarray(DECODER_INPUT)[:, i]
            found, caches = apply("decode_step", encoded, SOURCE, tokens, caches, i, memory)
            return caches, found

        return jax.lax.scan(step, caches, jnp.arange(length))[1].swapaxes(0, 1)

    for projected in (True, False):
        np.testing.assert_allclose(step_by_step(params, projected), expected, atol=2e-5 * 30)


@pytest.mark.slow
def test_rows_of_a_batch_have_prefixes_of_their_own(backbone):
    arrays = [started(FreePrefix(N, STACKS), backbone, seed)[1]["prefix"] for seed in (0, 1)]
    model = Transformer(CONFIG, prefix=PrefixPerRow(N, STACKS, batch_size=2))
    both = backbone | {"prefix": jax.tree.map(lambda *x: np.stack(x), *arrays)}
    alone = Transformer(CONFIG, prefix=FreePrefix(N, STACKS))
    for decode in (
        lambda *args: (decoding.greedy_decode(*args, 5, eos_id=-1),),
        # The scores as well: the best tokens may be those of many a prefix. An even number of
        # beams, so that the second input's first beam is in an even row.
        lambda *args: decoding.beam_search(*args, 5, 2, eos_id=-1),
    ):
        together = jax.jit(functools.partial(decode, model))(both, SOURCE)
        decode_one = jax.jit(functools.partial(decode, alone))
        for row in range(2):
            one = decode_one(backbone | {"prefix": arrays[row]}, SOURCE[row : row + 1])
            for ours, theirs in zip(together, one, strict=True):
                np.testing.assert_allclose(ours[row], theirs[0], rtol=1e-5)


@pytest.mark.slow
def test_prefix_and_soft_prompt_together(backbone):
    from dpt_jax.prompts import VanillaPrompt

    prompt = np.random.default_rng(3).normal(size=(2, 24)).astype(np.float32)
    model, params = started(FreePrefix(N, STACKS), backbone)
    found = logits(
        model.clone(prompt=VanillaPrompt(2, 24)), params | {"prompt": {"prompt": prompt}}
    )
    # To the reference the prompt is two more tokens.
    table = np.concatenate([backbone["token_embedder"]["embedding"], prompt])
    tokens = np.concatenate([[64, 65], SOURCE[0]])
    longer = params | {"token_embedder": {"embedding": table}}
    expected = numpy_t5.logits(CONFIG, longer, tokens, DECODER_INPUT[0], params["prefix"])
    np.testing.assert_allclose(found[0], expected, atol=1e-3)
