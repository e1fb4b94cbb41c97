"""Where a run's state comes from and goes to: checkpoints of T5X, of others, and numpy files."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("t5x", reason="T5X is not on PYTHONPATH: docs/t5x.md", exc_type=ImportError)

import seqio
from flax.core import freeze
from flax.traverse_util import flatten_dict, unflatten_dict
from sentencepiece import sentencepiece_model_pb2
from t5x import checkpoints, utils
from t5x.optimizers import OptimizerState

from dpt_jax import demo
from dpt_jax.errors import InputError
from dpt_jax.interop import PromptFile, load_backbone, load_factors, load_prompt, save_backbone
from dpt_jax.interop.adapters import Adapter
from dpt_jax.models.residual_norm import residual_norm
from dpt_jax.problems.first_values import init_prompt
from dpt_jax.prompts import (
    ClassLabels,
    DecomposedPrompt,
    ResidualNorm,
    SampledVocabulary,
    VanillaPrompt,
    bind_residual_norm,
    from_prompt,
    truncated_svd,
)
from dpt_jax.t5x import numpy_checkpoints, prompt_state
from dpt_jax.t5x.prompt_checkpointer import PromptCheckpointer
from dpt_jax.t5x.prompt_optimizer import PromptOptimizer
from dpt_jax.t5x.trained_parts import trained_of
from dpt_jax.t5x.vocabulary import task_vocabulary
from dpt_jax.training.optimizers import orthogonal
from tests.models.random_weights import random_parameters
from tests.t5x import tiny

pytestmark = pytest.mark.t5x

PROMPT = DecomposedPrompt(tiny.LENGTH, tiny.WIDTH, 2)
MEASURED = PROMPT.clone(a_init=ResidualNorm("A"), b_init=ResidualNorm("B"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A plain T5 that T5X has saved at step 1000 of pretraining, and its parameters."""
    return tiny.write_t5x_checkpoint(tmp_path_factory.mktemp("pretrained"), tiny.config())


def checkpointer(
    folder=None, prompt=PROMPT, optimizer=None, training=True, cfg=None, prefix=None, **settings
):
    """What `t5x.train` makes for a run in `folder`, or `t5x.eval` where it does not train."""
    cfg = cfg or tiny.config()
    made = tiny.initializer(cfg, prompt, optimizer, training, prefix)
    return PromptCheckpointer(
        made.global_train_state_shape,
        tiny.partitioner(),
        str(folder or ""),
        prompt=prompt,
        prefix=prefix,
        config=cfg,
        model_dir=str(folder) if folder else None,
        save_dtype=None,
        **settings,
    )


@jax.jit
def added(tree, number):
    """The tree with the number added to everything in it."""
    return jax.tree.map(lambda x: x + number.astype(x.dtype), tree)


def moved(state, step):
    """The state at a later step: something else trained, and slots that are not zero."""
    number = np.int32(step)
    params = freeze({**state.params, **added(trained_of(state.params), number)})
    slots = added(state._optimizer.state.param_states, number)
    optimizer = OptimizerState(jnp.asarray(step, jnp.int32), slots)
    return state.replace(_optimizer=state._optimizer.replace(state=optimizer, target=params))


def leaves(state):
    """Every leaf of a state as numpy, by T5X's names."""
    flat = prompt_state.flat_state(state)
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def assert_equal(state, expected):
    state, expected = leaves(state), leaves(expected)
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
        assert state[name].dtype == array.dtype, name


def test_a_new_run_begins_at_step_0_with_the_pretrained_weights_bit_for_bit(pretrained, tmp_path):
    path, params = pretrained
    state = checkpointer(tmp_path).restore(path=str(path))
    assert int(state.step) == 0
    assert tiny.frozen(state).keys() == params.keys()
    for name, array in tiny.frozen(state).items():
        assert array.tobytes() == params[name].tobytes(), name
    for name, slot in leaves(state).items():
        if name.startswith("state/"):
            assert not slot.any(), name


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, VanillaPrompt(tiny.LENGTH, tiny.WIDTH, prompt_init=SampledVocabulary(40))],
    ids=["factors", "sampled vocabulary"],
)
def test_the_prompt_starts_where_dpt_train_starts_it(pretrained, tmp_path, prompt):
    path, params = pretrained
    state = checkpointer(tmp_path, prompt, random_seed=3).restore(path=str(path))
    _, backbone = load_backbone(path)
    expected = init_prompt(prompt, backbone, tiny.VOCABULARY, seed=3)
    for name, array in tiny.prompt_of(state).items():
        np.testing.assert_array_equal(array, expected[name])
    if isinstance(prompt, VanillaPrompt):
        table = params["token_embedder/embedding"]
        assert all((row == table[3:43]).all(1).any() for row in tiny.prompt_of(state)["prompt"])


def test_a_prompt_starts_at_the_norm_that_dpt_train_measures(pretrained, tmp_path):
    path, _ = pretrained
    text = tiny.batch()["encoder_input_tokens"]
    starting = checkpointer(tmp_path, MEASURED, random_seed=3, text=lambda: text)
    state = starting.restore(path=str(path))
    backbone = load_backbone(path)[1]
    norm = residual_norm(tiny.config(), backbone, text)
    assert json.loads((tmp_path / "start.json").read_text()) == {"residual_norm": norm}
    bound = bind_residual_norm(MEASURED, lambda: norm)
    expected = init_prompt(bound, backbone, tiny.VOCABULARY, seed=3)
    for name, array in tiny.prompt_of(state).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.slow
def test_a_norm_is_not_measured_where_there_is_no_pretrained_model(pretrained):
    with pytest.raises(InputError, match="INITIAL_CHECKPOINT_PATH is None.*without _measured"):
        tiny.initializer(tiny.config(), MEASURED).from_scratch(jax.random.PRNGKey(0))
    evaluating = checkpointer(prompt=MEASURED, training=False)
    with pytest.raises(InputError, match=r"lacks .* prompt/.*CHECKPOINT_PATH.*PROMPT_FILE"):
        evaluating.restore(path=str(pretrained[0]))


def test_class_labels_start_at_the_restored_embeddings_of_their_pieces(pretrained, tmp_path):
    path, params = pretrained

    class Letters:
        def encode(self, text):
            return [ord(letter) - ord("a") + 10 for letter in text]

    prompt = VanillaPrompt(tiny.LENGTH, tiny.WIDTH, prompt_init=ClassLabels(["b", "ad"]))
    state = checkpointer(tmp_path, prompt, vocabulary=Letters()).restore(path=str(path))
    rows, table = tiny.prompt_of(state)["prompt"], params["token_embedder/embedding"]
    np.testing.assert_allclose(rows[0], table[11])
    np.testing.assert_allclose(rows[1], (table[10] + table[13]) / 2, rtol=1e-6)


def test_a_run_starts_from_a_npy_file(pretrained, tmp_path):
    array = np.random.default_rng(0).normal(size=(tiny.LENGTH, tiny.WIDTH)).astype(np.float32)
    np.save(tmp_path / "prompt.npy", array)
    file = PromptFile(str(tmp_path / "prompt.npy"))
    vanilla = VanillaPrompt(tiny.LENGTH, tiny.WIDTH, prompt_init=from_prompt(file))
    state = checkpointer(tmp_path / "a", vanilla).restore(path=str(pretrained[0]))
    np.testing.assert_array_equal(tiny.prompt_of(state)["prompt"], array)
    svd = DecomposedPrompt(
        tiny.LENGTH, tiny.WIDTH, 5, truncated_svd(file, "A"), truncated_svd(file, "B")
    )
    factors = tiny.prompt_of(checkpointer(tmp_path / "b", svd).restore(path=str(pretrained[0])))
    np.testing.assert_allclose(factors["A"] @ factors["B"], array, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((tiny.LENGTH, 16), "EMBED_DIM of 32"),
        ((7, tiny.WIDTH), "set --gin.PROMPT_LENGTH=7"),
        (None, "no prompt file"),
    ],
)
def test_a_npy_file_that_does_not_fit_is_refused_before_anything_is_read(tmp_path, shape, message):
    file = tmp_path / "prompt.npy"
    if shape:
        np.save(file, np.zeros(shape, np.float32))
    prompt = VanillaPrompt(tiny.LENGTH, tiny.WIDTH, prompt_init=from_prompt(PromptFile(str(file))))
    with pytest.raises(InputError, match=message):
        # There is nothing here that could be read.
        checkpointer(tmp_path, prompt).restore(path=str(tmp_path / "pretrained"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [optax.adamw, optax.adafactor, orthogonal])
@pytest.mark.parametrize("only_prompt", [False, True])
def test_a_run_goes_on_from_what_it_saved(pretrained, tmp_path, optimizer, only_prompt):
    wrapped = PromptOptimizer(optimizer, clip_norm=1.0)
    saving = checkpointer(tmp_path, optimizer=wrapped, save_only_prompt=only_prompt)
    start = saving.restore(path=str(pretrained[0]))
    for step in (4, 8):
        saving.save(moved(start, step))
    assert sorted(path.name for path in tmp_path.glob("checkpoint_*")) == (
        [] if only_prompt else ["checkpoint_4", "checkpoint_8"]
    )
    path = pretrained[0] if only_prompt else tmp_path / "checkpoint_8"
    # T5X restores with a checkpointer of its own.
    restoring = checkpointer(tmp_path, optimizer=wrapped, save_only_prompt=only_prompt)
    assert_equal(restoring.restore(path=str(path)), moved(start, 8))


@pytest.mark.slow
def test_a_resumed_run_needs_no_file_that_its_prompt_started_from(pretrained, tmp_path):
    file = tmp_path / "prompt.npy"
    np.save(file, np.zeros((tiny.LENGTH, tiny.WIDTH), np.float32))
    prompt = VanillaPrompt(tiny.LENGTH, tiny.WIDTH, prompt_init=from_prompt(PromptFile(str(file))))
    state = checkpointer(tmp_path, prompt).restore(path=str(pretrained[0]))
    checkpointer(tmp_path, prompt).save(moved(state, 2))
    file.unlink()
    again = checkpointer(tmp_path, prompt).restore(path=str(tmp_path / "checkpoint_2"))
    assert_equal(again, moved(state, 2))


def test_numpy_checkpoints_hold_the_prompt_and_outlive_t5xs_own(pretrained, tmp_path):
    saving = checkpointer(tmp_path, keep=1)
    start = saving.restore(path=str(pretrained[0]))
    for step in (1, 2, 3):
        saving.save(moved(start, step))
    assert [path.name for path in tmp_path.glob("checkpoint_*")] == ["checkpoint_3"]
    for step in (1, 2, 3):
        folder = tmp_path / "numpy_checkpoints" / f"checkpoint_{step}"
        factors = tiny.prompt_of(moved(start, step))
        for name, array in load_factors(folder).items():
            np.testing.assert_array_equal(array, factors[name])
        expected = factors["A"].astype(np.float64) @ factors["B"]
        np.testing.assert_allclose(load_prompt(folder), expected, rtol=1e-5)
        assert {path.name for path in folder.iterdir()} == {"prompt.npy", "prompt_params.npz"}


def test_saving_the_prompt_alone_takes_kilobytes(pretrained, tmp_path):
    saving = checkpointer(tmp_path, save_only_prompt=True)
    saving.save(moved(saving.restore(path=str(pretrained[0])), 1))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10_000


def test_one_host_writes_for_all(pretrained, tmp_path, monkeypatch):
    saving = checkpointer(tmp_path, save_only_prompt=True)
    state = moved(saving.restore(path=str(pretrained[0])), 1)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    saving.save(state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_writer_that_was_killed_leaves_nothing_that_is_taken_for_a_prompt(
    pretrained, tmp_path, monkeypatch
):
    saving = checkpointer(tmp_path, save_only_prompt=True)
    start = saving.restore(path=str(pretrained[0]))
    saving.save(moved(start, 4))
    replace = os.replace

    def dying(source, target):
        if str(target).endswith("prompt.npy"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        saving.save(moved(start, 8))
    monkeypatch.undo()
    again = checkpointer(tmp_path, save_only_prompt=True)
    assert_equal(again.restore(path=str(pretrained[0])), moved(start, 4))
    saving.save(moved(start, 8))
    assert_equal(again.restore(path=str(pretrained[0])), moved(start, 8))


def test_a_step_that_is_trained_again_replaces_what_was_saved(pretrained, tmp_path):
    saving = checkpointer(tmp_path, save_only_prompt=True)
    start = saving.restore(path=str(pretrained[0]))
    saving.save(moved(start, 4))
    other = moved(moved(start, 2), 4)
    saving.save(other)
    assert_equal(saving.restore(path=str(pretrained[0])), other)
    checkpointer(tmp_path).save(moved(start, 4))
    # What was saved for the replaced prompt does not go on with the new one.
    assert numpy_checkpoints.latest_train_state(str(tmp_path)) is None


def test_a_bucket_is_written_and_read(tmp_path):
    # TensorFlow's in-memory file system stands for any that has no local paths.
    folder = numpy_checkpoints.checkpoint_folder("ram://run", 4)
    params = {"A": np.ones((5, 2), np.float32), "B": np.ones((2, 3), np.float32)}
    state = {"state/step": np.asarray(4, np.int32)}
    for factor in (1, 2, 2):
        own = {"prompt": {**params, "A": factor * params["A"]}}
        numpy_checkpoints.write(folder, Adapter(np.ones((5, 3))), own, state)
    found = numpy_checkpoints.latest_train_state("ram://run")
    assert (found.step, found.values["state/step"]) == (4, 4)
    np.testing.assert_array_equal(found.values["target/prompt/A"], 2 * params["A"])
    assert numpy_checkpoints.latest_train_state("ram://nothing") is None


@pytest.mark.slow
def test_the_frozen_part_is_kept_as_bfloat16_where_asked_and_the_prompt_is_not(
    pretrained, tmp_path
):
    path, params = pretrained
    bfloat16 = functools.partial(checkpointer, tmp_path, frozen_dtype="bfloat16")
    state = bfloat16().restore(path=str(path))
    rounded = {name: array.astype(jax.numpy.bfloat16) for name, array in params.items()}

    def check(state):
        for name, array in tiny.frozen(state).items():
            assert array.dtype == jax.numpy.bfloat16
            assert array.tobytes() == rounded[name].tobytes(), name
        assert {x.dtype for x in tiny.prompt_of(state).values()} == {np.dtype(np.float32)}

    check(state)
    bfloat16().save(moved(state, 2))
    on_disk = tmp_path / "checkpoint_2" / "target.encoder.encoder_norm.scale" / ".zarray"
    assert json.loads(on_disk.read_text())["dtype"] == "bfloat16"
    again = bfloat16().restore(path=str(tmp_path / "checkpoint_2"))
    check(again)
    assert_equal(again, moved(state, 2))
    check(bfloat16(training=False).restore(path=str(tmp_path / "checkpoint_2")))


@pytest.mark.parametrize("dtype", ["int8", "bfloat61"])
def test_a_frozen_dtype_that_no_weights_are_kept_in_is_refused(dtype):
    with pytest.raises(InputError, match=f"FROZEN_DTYPE is '{dtype}'.*Set --gin.FROZEN_DTYPE"):
        checkpointer(frozen_dtype=dtype)


def test_an_evaluation_takes_the_prompt_and_step_of_the_run(pretrained, tmp_path):
    saving = checkpointer(tmp_path)
    state = moved(saving.restore(path=str(pretrained[0])), 7)
    saving.save(state)
    found = checkpointer(training=False).restore(path=str(tmp_path / "checkpoint_7"))
    assert int(found.step) == 7
    assert found.params.keys() == state.params.keys()
    for name, array in tiny.prompt_of(state).items():
        np.testing.assert_array_equal(tiny.prompt_of(found)[name], array)


def test_an_evaluation_takes_a_npy_file_beside_a_plain_checkpoint(pretrained, tmp_path):
    array = np.random.default_rng(0).normal(size=(tiny.LENGTH, tiny.WIDTH)).astype(np.float32)
    np.save(tmp_path / "prompt.npy", array)
    prompt = VanillaPrompt(
        tiny.LENGTH, tiny.WIDTH, prompt_init=from_prompt(PromptFile(str(tmp_path / "prompt.npy")))
    )
    found = checkpointer(prompt=prompt, training=False).restore(path=str(pretrained[0]))
    np.testing.assert_array_equal(tiny.prompt_of(found)["prompt"], array)


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, VanillaPrompt(tiny.LENGTH, tiny.WIDTH, prompt_init=SampledVocabulary(40))],
    ids=["factors", "sampled vocabulary"],
)
def test_a_random_prompt_is_not_evaluated(pretrained, prompt):
    evaluating = checkpointer(prompt=prompt, training=False)
    with pytest.raises(InputError, match=r"lacks .* prompt/.*CHECKPOINT_PATH.*PROMPT_FILE"):
        evaluating.restore(path=str(pretrained[0]))


def test_a_checkpoint_without_the_frozen_parameters_is_refused(pretrained, tmp_path):
    deeper = checkpointer(tmp_path, cfg=tiny.config(num_decoder_layers=3))
    with pytest.raises(InputError, match=r"lacks 14 of .*decoder/layers_2/.*INITIAL_CHECKPOINT"):
        deeper.restore(path=str(pretrained[0]))


def test_a_checkpoint_of_other_sizes_is_refused(pretrained, tmp_path):
    wider = checkpointer(tmp_path, cfg=tiny.config(mlp_dim=44))
    with pytest.raises(InputError, match=r"mlp/w\S+ has shape \(\S+, \S+\), but the model file"):
        wider.restore(path=str(pretrained[0]))


@pytest.mark.slow
def test_a_run_with_another_prompt_or_optimizer_is_not_continued(pretrained, tmp_path):
    saving = checkpointer(tmp_path, save_only_prompt=True)
    saving.save(moved(saving.restore(path=str(pretrained[0])), 4))
    wider = DecomposedPrompt(tiny.LENGTH, tiny.WIDTH, 3)
    with pytest.raises(InputError, match=r"A of shape \(5, 2\).*\(5, 3\).*another --gin.MODEL_DIR"):
        checkpointer(tmp_path, wider).restore(path=str(pretrained[0]))
    with pytest.raises(InputError, match=r"param_states.*another --gin.MODEL_DIR"):
        checkpointer(tmp_path, optimizer=PromptOptimizer(optax.sgd)).restore(
            path=str(pretrained[0])
        )


@pytest.mark.slow
def test_a_prompt_is_not_continued_with_another_backbone(pretrained, tmp_path):
    path, params = pretrained
    saving = checkpointer(tmp_path, save_only_prompt=True)
    saving.save(moved(saving.restore(path=str(path)), 4))
    # The same backbone in another dtype is the same.
    checkpointer(tmp_path, frozen_dtype="bfloat16").restore(path=str(path))
    other = unflatten_dict(params, sep="/")
    other["token_embedder"]["embedding"] = other["token_embedder"]["embedding"] + 0.1
    save_backbone(tmp_path / "other", tiny.config(), other)
    with pytest.raises(InputError, match="another backbone.*INITIAL_CHECKPOINT_PATH"):
        checkpointer(tmp_path).restore(path=str(tmp_path / "other"))


def test_a_run_without_a_checkpoint_does_not_overwrite_a_prompt(pretrained, tmp_path):
    saving = checkpointer(tmp_path, save_only_prompt=True)
    state = saving.restore(path=str(pretrained[0]))
    saving.save(moved(state, 4))
    with pytest.raises(InputError, match="checkpoint_4 is there already.*at step 0"):
        saving.save(state)


def test_a_tensorflow_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="convert_tf_checkpoint"):
        checkpointer(tmp_path).restore_from_tf_checkpoint("model.ckpt-1000000")


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pretrained T5"):
        checkpointer(tmp_path / "run").restore(path=str(tmp_path / "empty"))


def test_a_backbone_that_dpt_train_reads_is_read_too(tmp_path):
    cfg = tiny.config("t5_1_0")
    params = random_parameters(cfg)
    save_backbone(tmp_path / "backbone", cfg, params)
    state = checkpointer(tmp_path, cfg=cfg).restore(path=str(tmp_path / "backbone"))
    for name, array in flatten_dict(params, sep="/").items():
        np.testing.assert_array_equal(tiny.frozen(state)[name], array)


def test_a_umt5_is_refused_by_name(tmp_path):
    cfg = tiny.config(relpos_bias_per_layer=True)
    save_backbone(tmp_path / "umt5", cfg, random_parameters(cfg))
    with pytest.raises(InputError, match="umt5 is a umT5, with a position bias in every layer"):
        checkpointer(tmp_path / "run").restore(path=str(tmp_path / "umt5"))


def test_an_orbax_checkpoint_of_t5x_is_read_too(pretrained, tmp_path):
    path, params = pretrained
    state = checkpointer(tmp_path).restore(path=str(path))
    manager = checkpoints.OrbaxCheckpointManagerInterface(
        str(tmp_path), state, tiny.partitioner(), save_dtype=np.dtype(np.float32)
    )
    manager.save(state)
    manager.close()
    found = checkpointer(tmp_path / "run").restore(path=str(tmp_path / "checkpoint_0"))
    for name, array in tiny.frozen(found).items():
        assert array.tobytes() == params[name].tobytes(), name


@pytest.mark.slow
def test_without_a_checkpoint_the_prompt_starts_from_the_random_backbones_embeddings():
    prompt = VanillaPrompt(tiny.LENGTH, tiny.WIDTH, prompt_init=SampledVocabulary(40))
    state = tiny.initializer(tiny.config(), prompt).from_scratch(jax.random.PRNGKey(0))
    table = np.asarray(state.params["token_embedder"]["embedding"])
    assert all((row == table[3:43]).all(1).any() for row in tiny.prompt_of(state)["prompt"])


def spoken(pieces, sentinels, folder):
    """A SentencePiece model of these pieces, as SeqIO would read it."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(demo.VOCABULARY.read_bytes())
    for piece, new in zip(proto.pieces[10:], pieces, strict=False):
        piece.piece = new
    for i in range(sentinels):
        proto.pieces.add(piece=f"<extra_id_{i}>", type=4)
    file = folder / f"{'-'.join(pieces)}-{sentinels}.model"
    file.write_bytes(proto.SerializeToString())
    return str(file)


def test_the_tasks_vocabulary_has_to_be_that_of_the_checkpoint(tmp_path):
    settings = {"mixture_or_task_name": "demo_questions", "module": "dpt_jax.demo.tasks"}
    vocabulary = task_vocabulary(**settings)
    assert vocabulary.sentencepiece_model_file == str(demo.VOCABULARY)
    for file in (str(demo.VOCABULARY), spoken([], 0, tmp_path), spoken([], 3, tmp_path)):
        assert task_vocabulary(**settings, file=file) is vocabulary
    with pytest.raises(InputError, match=r"differ from id 10 on.*VOCABULARY_FILE"):
        task_vocabulary(**settings, file=spoken(["other"], 0, tmp_path))
    with pytest.raises(InputError, match=r"nowhere.model cannot be read"):
        task_vocabulary(**settings, file="nowhere.model")
    with pytest.raises(InputError, match=r"the model that of bytes\. Set DPT_VOCAB=bytes"):
        task_vocabulary(**settings, file="bytes")


def test_a_vocabulary_with_other_special_ids_than_t5s_is_refused(tmp_path, monkeypatch):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(demo.VOCABULARY.read_bytes())
    # The unknown piece first, as SentencePiece's trainer has it.
    first, third = (
        type(piece).FromString(piece.SerializeToString()) for piece in proto.pieces[:3:2]
    )
    proto.pieces[0].CopyFrom(third)
    proto.pieces[2].CopyFrom(first)
    (tmp_path / "other.model").write_bytes(proto.SerializeToString())
    vocabulary = seqio.SentencePieceVocabulary(str(tmp_path / "other.model"))
    monkeypatch.setattr(utils, "get_vocabulary", lambda config: (vocabulary, vocabulary))
    with pytest.raises(InputError, match="'some_task' has id 0 for what it does not know"):
        task_vocabulary("some_task")


def test_a_vocabulary_of_another_size_than_the_embedding_is_refused(monkeypatch):
    monkeypatch.setattr(tiny, "VOCABULARY", seqio.ByteVocabulary())
    with pytest.raises(InputError, match=r"259 pieces, but the model embeds 64"):
        tiny.initializer(tiny.config(), PROMPT)
    with pytest.raises(InputError, match=r"259 pieces, but the model embeds 1024"):
        tiny.initializer(tiny.config(vocab_size=1024), PROMPT)
