"""The prompted network in T5X's stock model, against T5X without a prompt and against ours."""

import functools

import gin
import jax
import numpy as np
import optax
import pytest

pytest.importorskip("t5x", reason="T5X is not on PYTHONPATH: docs/t5x.md", exc_type=ImportError)

from flax.core import freeze, unfreeze
from flax.traverse_util import flatten_dict
from t5x import decoding, trainer
from t5x.metrics import set_step_metrics_num_steps
from t5x.train_state import FlaxOptimTrainState as T5XState

from dpt_jax.errors import InputError
from dpt_jax.models import Transformer
from dpt_jax.models.decoding import greedy_decode
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.prompts import DecomposedPrompt, ResidualPrompt, SpectralPrompt, VanillaPrompt
from dpt_jax.t5x.prompt_optimizer import PromptOptimizer
from dpt_jax.training.optimizers import orthogonal
from dpt_jax.training.state import TrainState
from dpt_jax.training.step import make_train_step
from tests.models.random_weights import random_parameters
from tests.t5x import tiny

pytestmark = pytest.mark.t5x

ADAMW = functools.partial(optax.adamw, weight_decay=1e-3)
# A prompt whose rows are embeddings of tokens is the same as those tokens in front of the text.
TOKENS = np.asarray([9, 33, 5, 60, 17], np.int32)


@pytest.fixture(scope="module", params=tiny.FORMS)
def both(request):
    """The configuration, its parameters with such a prompt, and a batch without and with it."""
    # One layer: a prompt does not meet the others in another way.
    cfg = tiny.config(request.param, num_encoder_layers=1, num_decoder_layers=1)
    params = random_parameters(cfg)
    prompt = params["token_embedder"]["embedding"][TOKENS]
    batch = tiny.batch()
    in_text = np.concatenate(
        [np.tile(TOKENS, (tiny.ROWS, 1)), batch["encoder_input_tokens"]], axis=1
    )
    return (
        cfg,
        {**params, "prompt": {"prompt": prompt}},
        batch,
        params,
        {**batch, "encoder_input_tokens": in_text},
    )


def models(both, **settings):
    cfg, params, batch, plain_params, plain_batch = both
    prompted = tiny.model(cfg, VanillaPrompt(tiny.LENGTH, tiny.WIDTH), **settings)
    return (prompted, params, batch), (tiny.model(cfg, **settings), plain_params, plain_batch)


@pytest.mark.slow
def test_the_loss_and_its_metrics_are_those_of_the_same_prompt_given_as_text(both):
    (loss, metrics), (plain, plain_metrics) = (
        jax.jit(functools.partial(model.loss_fn, dropout_rng=None))(params, batch)
        for model, params, batch in models(both)
    )
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    # Prompt positions are no target tokens.
    for name in ("loss", "accuracy", "cross_ent_loss"):
        ours, theirs = (m[name].compute() for m in (metrics, plain_metrics))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.slow
def test_scores_are_those_of_the_same_prompt_given_as_text(both):
    ours, theirs = (jax.jit(m.score_batch)(p, b) for m, p, b in models(both))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decode_fn", "num_decodes"),
    [
        (decoding.beam_search, 1),
        (decoding.beam_search, 3),
        (functools.partial(decoding.temperature_sample, temperature=0.7, topk=8), 2),
    ],
)
def test_beam_search_and_sampling_find_what_the_same_prompt_given_as_text_finds(
    both, decode_fn, num_decodes
):
    results = []
    for model, params, batch in models(both, decode_fn=decode_fn):
        decode = functools.partial(
            model.predict_batch_with_aux, return_all_decodes=True, num_decodes=num_decodes
        )
        # The seed makes both sample alike.
        results.append(jax.jit(decode)(params, batch, rng=jax.random.key(4)))
    (ours, scores), (theirs, plain_scores) = results
    assert ours.shape == (tiny.ROWS, num_decodes, tiny.TARGET)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(scores["scores"], plain_scores["scores"], rtol=1e-5)


@pytest.fixture(scope="module")
def decomposed(both):
    cfg, params, batch, *_ = both
    prompt = DecomposedPrompt(tiny.LENGTH, tiny.WIDTH, 2)
    drawn = jax.jit(prompt.initialize)(jax.random.key(1))
    frozen = {name: leaf for name, leaf in params.items() if name != "prompt"}
    return cfg, prompt, frozen, jax.tree.map(np.asarray, drawn), batch


@pytest.mark.slow
def test_the_loss_is_that_of_dpt_train(decomposed):
    cfg, prompt, frozen, drawn, batch = decomposed
    loss, _ = jax.jit(functools.partial(tiny.model(cfg, prompt).loss_fn, dropout_rng=None))(
        {**frozen, "prompt": drawn}, batch
    )
    summed, count = jax.jit(make_loss_fn(Transformer(cfg, prompt)))(
        {"prompt": drawn}, frozen, batch, jax.random.key(0)
    )
    np.testing.assert_allclose(loss, summed / count, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_greedy_answers_are_those_of_dpt_evaluate(decomposed):
    cfg, prompt, frozen, drawn, batch = decomposed
    params = {**frozen, "prompt": drawn}
    greedy = functools.partial(decoding.temperature_sample, temperature=0.0)
    theirs = jax.jit(tiny.model(cfg, prompt, decode_fn=greedy).predict_batch)(params, batch)
    ours = jax.jit(functools.partial(greedy_decode, Transformer(cfg, prompt), max_decode_length=6))(
        params, batch["encoder_input_tokens"]
    )
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "clip_norm"), [(ADAMW, None), (ADAMW, 0.01), (orthogonal, None)]
)
def test_ten_steps_reach_the_prompt_of_dpt_train(decomposed, optimizer, clip_norm):
    cfg, prompt, frozen, drawn, _ = decomposed
    batches = [tiny.batch(seed) for seed in range(10)]
    rate = optax.linear_schedule(0.3, 0.0, 10)
    model = tiny.model(cfg, prompt, PromptOptimizer(optimizer, clip_norm))
    state, their_losses = tiny.trained_by_t5x(model, {**frozen, "prompt": drawn}, batches, rate)

    optimizer, losses = optimizer(rate), []
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    ours = TrainState.create({"prompt": drawn}, optimizer, seed=0)
    step = jax.jit(make_train_step(make_loss_fn(Transformer(cfg, prompt)), optimizer))
    for batch in batches:
        ours, metrics = step(ours, frozen, batch)
        losses.append(float(metrics["loss"]))

    assert int(state.step) == 10
    np.testing.assert_allclose(their_losses, losses, atol=1e-5, rtol=0)
    for name, factor in ours.params["prompt"].items():
        np.testing.assert_allclose(state.params["prompt"][name], factor, atol=1e-4, rtol=0)
        assert np.abs(factor - drawn[name]).max() > 0.1
    for name, array in flatten_dict(frozen, sep="/").items():
        assert tiny.frozen(state)[name].tobytes() == np.asarray(array).tobytes(), name


def gradient_of(decomposed, batch, parts, normalizing):
    """The prompt's gradient as T5X's Trainer takes it, and what it logs of the losses."""
    cfg, prompt, frozen, drawn, _ = decomposed
    model = tiny.model(cfg, prompt, microbatches=parts, normalizing=normalizing)
    params = freeze({**frozen, "prompt": drawn})
    state = model.optimizer_def.create(params)
    gradient, metrics, _ = jax.jit(
        functools.partial(trainer.accumulate_grads_microbatched, model, num_microbatches=parts)
    )(T5XState(state), batch, dropout_rng=jax.random.key(0))
    # The Trainer sets the number of steps of such metrics.
    metrics = set_step_metrics_num_steps(dict(metrics), 1)
    logged = {name: metrics[name].compute() for name in metrics if "loss" in name}
    return gradient["prompt"], logged


@pytest.mark.slow
@pytest.mark.parametrize(
    "normalizing", ["NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE", None, 7.0]
)
def test_microbatches_change_neither_the_gradient_nor_the_logged_losses(decomposed, normalizing):
    batch = tiny.batch()
    batch["decoder_loss_weights"][:] = 1
    whole, logged = gradient_of(decomposed, batch, None, normalizing)
    parts, of_parts = gradient_of(decomposed, batch, tiny.ROWS, normalizing)
    for name, factor in whole.items():
        np.testing.assert_allclose(parts[name], factor, rtol=1e-4, atol=1e-6)
    assert {"loss", "loss_per_nonpadding_target_token", "cross_ent_loss"} <= logged.keys()
    for name, loss in logged.items():
        np.testing.assert_allclose(of_parts[name], loss, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_microbatches_of_unequal_lengths_have_one_weight_each(decomposed):
    batch = tiny.batch()
    normalizing = "NUM_REAL_TARGET_TOKENS"
    parts, logged = gradient_of(decomposed, batch, tiny.ROWS, normalizing)
    rows = [
        gradient_of(
            decomposed, {name: leaf[i : i + 1] for name, leaf in batch.items()}, None, normalizing
        )
        for i in range(tiny.ROWS)
    ]
    for name, factor in parts.items():
        mean = np.mean([gradient[name] for gradient, _ in rows], axis=0)
        np.testing.assert_allclose(factor, mean, rtol=1e-4, atol=1e-6)
    mean = np.mean([of_row["loss"] for _, of_row in rows])
    np.testing.assert_allclose(logged["loss"], mean, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [optax.adamw, optax.adafactor])
def test_only_the_prompt_has_optimizer_slots(decomposed, optimizer):
    cfg, _, frozen, *_ = decomposed
    # Wide enough for Adafactor to factor the slots.
    prompt = VanillaPrompt(160, 160)
    drawn = jax.eval_shape(prompt.initialize, jax.random.key(0))
    wrapped = PromptOptimizer(optimizer)
    slots = jax.eval_shape(wrapped.init_state, {**frozen, "prompt": drawn}).param_states
    alone = jax.eval_shape(optimizer(0.1).init, drawn)
    sizes = [leaf.shape for leaf in jax.tree.leaves(slots)]
    assert sizes == [leaf.shape for leaf in jax.tree.leaves(alone)]


@pytest.mark.parametrize("optimizer", [optax.adamw, optax.adafactor, optax.lion, orthogonal])
def test_an_update_is_that_of_the_optimizer_on_the_prompt_alone(optimizer):
    prompt = {"A": np.ones((4, 2), np.float32), "B": np.full((2, 8), 0.5, np.float32)}
    # Adding even a zero update would lose the sign of -0.0.
    params = freeze({"encoder": {"scale": np.asarray([-0.0, 1.0], np.float32)}, "prompt": prompt})
    grads = jax.tree.map(
        lambda x: np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape), params
    )
    wrapped = jax.jit(PromptOptimizer(optimizer).create)(params)
    wrapped = jax.jit(lambda o, g: o.apply_gradient(g, learning_rate=0.2))(wrapped, grads)

    @jax.jit
    def alone(prompt, gradient):
        updates, _ = optimizer(0.2).update(gradient, optimizer(0.2).init(prompt), prompt)
        return optax.apply_updates(prompt, updates)

    for name, expected in alone(prompt, unfreeze(grads["prompt"])).items():
        np.testing.assert_allclose(wrapped.target["prompt"][name], expected, rtol=1e-6)
    scale = np.asarray(wrapped.target["encoder"]["scale"])
    assert scale.tobytes() == np.float32([-0.0, 1.0]).tobytes()


@pytest.mark.parametrize(
    "prompt",
    [
        VanillaPrompt(tiny.LENGTH, tiny.WIDTH),
        DecomposedPrompt(tiny.LENGTH, tiny.WIDTH, 2),
        ResidualPrompt(tiny.LENGTH, tiny.WIDTH, hidden_dim=4),
        SpectralPrompt(tiny.LENGTH, tiny.WIDTH),
    ],
    ids=lambda prompt: type(prompt).__name__,
)
@pytest.mark.parametrize("optimizer", [optax.adamw, optax.adafactor, orthogonal])
def test_every_prompt_is_replicated_and_the_backbone_keeps_t5xs_axes(prompt, optimizer):
    made = tiny.initializer(tiny.config(), prompt, PromptOptimizer(optimizer))
    axes = flatten_dict(made.train_state_axes.state_dict(), sep="/")
    assert set(axes) == set(flatten_dict(made.global_train_state_shape.state_dict(), sep="/"))
    for name, spec in axes.items():
        if name.startswith(("target/prompt/", "state/")):
            assert spec is None or set(spec) <= {None}, name
    assert tuple(axes["target/token_embedder/embedding"]) == ("model", None)
    assert tuple(axes["target/encoder/layers_0/mlp/wo/kernel"]) == ("model", None)


def test_a_packed_batch_is_refused_with_the_reason():
    shape = (tiny.ROWS, tiny.SOURCE)
    prompt = VanillaPrompt(tiny.LENGTH, tiny.WIDTH)
    with pytest.raises(InputError, match=r"packed.*only the first.*DatasetConfig.pack = False"):
        tiny.initializer(tiny.config(), prompt, encoder_segment_ids=shape)


def test_a_prompt_of_another_width_is_refused():
    with pytest.raises(InputError, match=r"prompt is 16 wide \(EMBED_DIM\), the model 32"):
        tiny.initializer(tiny.config(), VanillaPrompt(tiny.LENGTH, 16))


def test_umt5_is_refused_by_name():
    prompt = VanillaPrompt(tiny.LENGTH, tiny.WIDTH)
    with pytest.raises(InputError, match=r"relpos_bias_per_layer is True \(umT5\).*dpt train"):
        tiny.initializer(tiny.config(relpos_bias_per_layer=True), prompt)


@pytest.mark.parametrize(("field", "value"), [("remat_policy", "full"), ("attention", "blocked")])
def test_what_t5xs_network_does_not_read_is_refused(field, value):
    prompt = VanillaPrompt(tiny.LENGTH, tiny.WIDTH)
    with pytest.raises(InputError, match=f"T5Config.{field} is '{value}'.*--gin.{field.upper()}"):
        tiny.initializer(tiny.config(**{field: value}), prompt)


def test_a_model_without_a_prompt_is_refused():
    with pytest.raises(InputError, match=r"not a prompted one.*prompts/\*\.gin"):
        tiny.initializer(tiny.config(), None)


def test_a_mistyped_macro_is_refused():
    gin.parse_config("MINE_ALONE = 1\nBOTLENECK = 3")
    with pytest.raises(InputError, match="BOTLENECK is set, but nothing uses it. BOTTLENECK is"):
        tiny.initializer(tiny.config(), VanillaPrompt(tiny.LENGTH, tiny.WIDTH))
