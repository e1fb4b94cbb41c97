"""Prefixes trained by T5X: as `dpt train` does it, and saved, resumed and evaluated."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("t5x", reason="T5X is not on PYTHONPATH: docs/t5x.md", exc_type=ImportError)

from flax.traverse_util import flatten_dict

from dpt_jax import interop
from dpt_jax.errors import InputError
from dpt_jax.interop import adapters
from dpt_jax.interop.prefixes import FoldedPrefix, load_prefix, save_prefix
from dpt_jax.interop.t5x_checkpoint import open_checkpoint
from dpt_jax.models import Transformer
from dpt_jax.prefixes import STACKS, DecomposedPrefix, FreePrefix, SimpleSharedPrefix
from dpt_jax.problems.first_values import init_prefix, init_prompt
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.prompts import DecomposedPrompt, SampledVocabulary
from dpt_jax.t5x.prompt_optimizer import PromptOptimizer
from dpt_jax.t5x.prompted_network import PromptedTransformer
from dpt_jax.training.state import TrainState
from dpt_jax.training.step import make_train_step
from tests.models.random_weights import random_parameters
from tests.t5x import tiny
from tests.t5x.test_prompt_checkpointer import assert_equal, checkpointer, leaves, moved

pytestmark = pytest.mark.t5x

PROMPT = DecomposedPrompt(tiny.LENGTH, tiny.WIDTH, 2)
PREFIX = SimpleSharedPrefix(3, STACKS, rows_init=SampledVocabulary(40))
LOW_RANK = DecomposedPrefix(3, ("encoder", "cross"), bottleneck=2)
PARTS = {"prefix": (None, PREFIX), "both": (PROMPT, LOW_RANK)}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A plain T5 that T5X has saved, and its parameters by name."""
    return tiny.write_t5x_checkpoint(tmp_path_factory.mktemp("pretrained"), tiny.config())


@pytest.fixture(params=PARTS)
def parts(request):
    return PARTS[request.param]


def first_values(prompt, prefix, seed=0):
    """What `dpt train` begins with, on the backbone of `pretrained`."""
    backbone = random_parameters(tiny.config())
    args = (backbone, tiny.VOCABULARY, seed)
    drawn = {"prompt": init_prompt(prompt, *args)} if prompt else {}
    drawn["prefix"] = init_prefix(prefix, tiny.config(), *args)
    return jax.tree.map(np.asarray, drawn)


@pytest.mark.slow
def test_ten_adamw_steps_are_those_of_dpt_train():
    prompt, prefix, clip_norm = PROMPT, PREFIX, 0.01
    config, drawn = tiny.config(), first_values(prompt, prefix)
    frozen = random_parameters(config)
    batches = [tiny.batch(seed) for seed in range(10)]
    rate = optax.linear_schedule(0.1, 0.0, 10)
    adamw = functools.partial(optax.adamw, weight_decay=1e-3)
    model = tiny.model(config, prompt, PromptOptimizer(adamw, clip_norm), prefix=prefix)
    theirs, their_losses = tiny.trained_by_t5x(model, {**frozen, **drawn}, batches, rate)

    # The norm is that of the gradients of both.
    optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), adamw(rate))
    ours = TrainState.create(jax.tree.map(jnp.asarray, drawn), optimizer, seed=0)
    network = Transformer(config, prompt, prefix)
    step = jax.jit(make_train_step(make_loss_fn(network), optimizer))
    losses = []
    for batch in batches:
        ours, metrics = step(ours, frozen, batch)
        losses.append(float(metrics["loss"]))

    np.testing.assert_allclose(their_losses, losses, atol=1e-5, rtol=0)
    assert abs(losses[0] - losses[-1]) > 0.01
    for name, array in flatten_dict(ours.params, sep="/").items():
        found = flatten_dict(tiny.prompt_of(theirs, name.split("/")[0]), sep="/")
        np.testing.assert_allclose(found[name.split("/")[1]], array, atol=1e-4, rtol=0)
    for name, array in flatten_dict(frozen, sep="/").items():
        assert tiny.frozen(theirs)[name].tobytes() == np.asarray(array).tobytes(), name


def test_prompt_and_prefix_start_where_dpt_train_starts_them(pretrained, tmp_path, parts):
    prompt, prefix = parts
    starting = checkpointer(tmp_path, prompt, prefix=prefix, random_seed=3)
    state = starting.restore(path=str(pretrained[0]))
    assert int(state.step) == 0
    for part, expected in first_values(*parts, seed=3).items():
        found = tiny.prompt_of(state, part)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    for name, array in tiny.frozen(state).items():
        assert array.tobytes() == pretrained[1][name].tobytes(), name


@pytest.mark.parametrize("optimizer", [optax.adamw, optax.adafactor])
def test_only_what_is_trained_has_slots_and_is_updated(parts, optimizer):
    drawn = first_values(*parts)
    # Adding even a zero update would lose the sign of -0.0.
    params = {"encoder": {"scale": np.asarray([-0.0, 1.0], np.float32)}, **drawn}
    grads = jax.tree.map(np.ones_like, params)
    wrapped = jax.jit(PromptOptimizer(optimizer).create)(params)
    alone = jax.jit(optimizer(0.2).init)(drawn)
    shapes = [leaf.shape for leaf in jax.tree.leaves(alone)]
    assert sorted(x.shape for x in jax.tree.leaves(wrapped.state.param_states)) == sorted(shapes)

    update = jax.jit(lambda o, g: o.apply_gradient(g, learning_rate=0.2))
    found = update(wrapped, grads).target
    updates, _ = jax.jit(optimizer(0.2).update)({p: grads[p] for p in drawn}, alone, drawn)
    for name, array in flatten_dict(optax.apply_updates(drawn, updates)).items():
        np.testing.assert_allclose(flatten_dict(found)[name], array, rtol=1e-6)
    assert np.asarray(found["encoder"]["scale"]).tobytes() == np.float32([-0.0, 1.0]).tobytes()


def test_a_lone_prompt_keeps_the_slots_names_of_earlier_versions(pretrained, tmp_path):
    state = checkpointer(tmp_path, PROMPT).restore(path=str(pretrained[0]))
    assert "state/param_states/0/mu/A" in leaves(state)


@pytest.mark.parametrize("only_prompt", [False, True])
def test_a_run_goes_on_from_what_it_saved(pretrained, tmp_path, parts, only_prompt):
    prompt, prefix = parts
    settings = {"prefix": prefix, "save_only_prompt": only_prompt}
    saving = checkpointer(tmp_path, prompt, **settings)
    start = saving.restore(path=str(pretrained[0]))
    for step in (4, 8):
        saving.save(moved(start, step))
    files = {"prefix.npz", "prefix_params.npz"}
    files |= {"prompt.npy", "prompt_params.npz"} if prompt else set()
    files |= {"train_state.npz"} if only_prompt else set()
    folder = tmp_path / "numpy_checkpoints" / "checkpoint_8"
    assert {path.name for path in folder.iterdir()} == files
    path = pretrained[0] if only_prompt else tmp_path / "checkpoint_8"
    assert_equal(
        checkpointer(tmp_path, prompt, **settings).restore(path=str(path)), moved(start, 8)
    )


def test_what_is_saved_is_the_prefix_behind_the_frozen_projections(pretrained, tmp_path):
    path, params = pretrained
    saving = checkpointer(tmp_path, None, prefix=PREFIX)
    state = moved(saving.restore(path=str(path)), 1)
    saving.save(state)
    found = load_prefix(tmp_path / "numpy_checkpoints" / "checkpoint_1" / "prefix.npz")
    rows = tiny.prompt_of(state, "prefix")
    for layer in range(2):
        row = rows["cross_rows"][layer].astype(np.float64)
        row *= params["encoder/encoder_norm/scale"] / np.sqrt((row**2).mean(-1) + 1e-6)[:, None]
        for kind in ("key", "value"):
            kernel = f"decoder/layers_{layer}/encoder_decoder_attention/{kind}/kernel"
            expected = (row @ params[kernel]).reshape(3, 4, 6)
            np.testing.assert_allclose(found.arrays[f"cross_{kind}s"][layer], expected, atol=1e-4)


def test_a_writer_that_was_killed_between_prefix_and_prompt_leaves_the_earlier_step(
    pretrained, tmp_path, monkeypatch
):
    settings = {"prefix": LOW_RANK, "save_only_prompt": True}
    saving = checkpointer(tmp_path, PROMPT, **settings)
    start = saving.restore(path=str(pretrained[0]))
    saving.save(moved(start, 4))

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapters, "save_prompt", killed)
    with pytest.raises(KeyboardInterrupt):
        saving.save(moved(start, 8))
    assert (tmp_path / "numpy_checkpoints" / "checkpoint_8" / "prefix.npz").exists()
    again = checkpointer(tmp_path, PROMPT, **settings).restore(path=str(pretrained[0]))
    assert_equal(again, moved(start, 4))


def test_a_run_with_another_prefix_is_not_continued(pretrained, tmp_path):
    saving = checkpointer(tmp_path, None, prefix=LOW_RANK, save_only_prompt=True)
    saving.save(moved(saving.restore(path=str(pretrained[0])), 4))
    other = LOW_RANK.clone(bottleneck=3)
    with pytest.raises(InputError, match=r"prefix/cross_A of shape .*the prefix or the optimizer"):
        checkpointer(tmp_path, None, prefix=other).restore(path=str(pretrained[0]))
    with pytest.raises(InputError, match=r"has .*prompt/A of shape None"):
        checkpointer(tmp_path, PROMPT, prefix=LOW_RANK).restore(path=str(pretrained[0]))


def test_an_evaluation_takes_what_the_run_has_saved(pretrained, tmp_path):
    saving = checkpointer(tmp_path, None, prefix=PREFIX)
    state = moved(saving.restore(path=str(pretrained[0])), 7)
    saving.save(state)
    saved = tmp_path / "checkpoint_7"
    found = checkpointer(None, None, training=False, prefix=PREFIX).restore(path=str(saved))
    assert int(found.step) == 7
    for name, array in tiny.prompt_of(state, "prefix").items():
        np.testing.assert_array_equal(tiny.prompt_of(found, "prefix")[name], array)
    # Elsewhere than in T5X the checkpoint stands for what was saved beside it in plain arrays.
    beside = load_prefix(tmp_path / "numpy_checkpoints" / "checkpoint_7" / "prefix.npz")
    arrays = adapters.load_adapter(saved).prefix.arrays
    assert arrays.keys() == beside.arrays.keys()
    for name, array in beside.arrays.items():
        np.testing.assert_array_equal(arrays[name], array)
    shutil.rmtree(tmp_path / "numpy_checkpoints")
    with pytest.raises(InputError, match="holds a prefix as its method's own parameters"):
        adapters.load_adapter(saved)
    # Others read the T5 in it and nothing else.
    assert set(open_checkpoint(saved.as_uri())) == set(pretrained[1])


def test_an_evaluation_takes_a_file_beside_a_plain_checkpoint(pretrained, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{stack}_{kind}": rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
        for stack in STACKS
        for kind in ("keys", "values")
    }
    save_prefix(tmp_path, FoldedPrefix(arrays, "front"))
    prefix = interop.prefix_from_file(str(tmp_path / "prefix.npz"))
    assert prefix.position_bias == "front"
    found = checkpointer(None, None, training=False, prefix=prefix).restore(path=str(pretrained[0]))
    for name, array in tiny.prompt_of(found, "prefix").items():
        np.testing.assert_array_equal(array, arrays[name])
    deeper = tiny.config(num_decoder_layers=3)
    with pytest.raises(InputError, match=r"decoder_keys of shape \(2, .*asks for \(3, .*PREFIX_F"):
        checkpointer(tmp_path, None, prefix=prefix, cfg=deeper).restore(path=str(pretrained[0]))


@pytest.mark.parametrize("prefix", [PREFIX, FreePrefix(3)], ids=["sampled", "random"])
def test_a_random_prefix_is_not_evaluated(pretrained, prefix):
    evaluating = checkpointer(None, None, training=False, prefix=prefix)
    with pytest.raises(InputError, match=r"lacks .* prefix/.*CHECKPOINT_PATH.*PREFIX_FILE"):
        evaluating.restore(path=str(pretrained[0]))


@pytest.mark.parametrize("prefix", [PREFIX, LOW_RANK, FreePrefix(3, STACKS)])
def test_every_axis_is_known_to_t5xs_partitioner(prefix):
    made = tiny.initializer(tiny.config(), None, prefix=prefix)
    axes = flatten_dict(made.train_state_axes.state_dict(), sep="/")
    assert set(axes) == set(flatten_dict(made.global_train_state_shape.state_dict(), sep="/"))


def test_neither_prompt_nor_prefix_is_refused_by_name():
    made = tiny.model(tiny.config(), PROMPT)
    made.module = PromptedTransformer(tiny.config())
    with pytest.raises(InputError, match=r"PROMPT is None and PREFIX is None.*after the run file"):
        tiny.initializer_of(made)
