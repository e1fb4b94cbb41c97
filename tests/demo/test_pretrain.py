"""The pretraining script, on a run far too short to learn anything."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import sentencepiece

from dpt_jax.demo import VOCABULARY, pretrain, skills
from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone
from dpt_jax.models import Transformer


def encode(texts):
    return sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY)).encode(texts)


@pytest.fixture(autouse=True, scope="module")
def narrow_network():
    """The network's form with less of everything, so that it compiles quickly."""
    narrow = dataclasses.replace(
        pretrain.CONFIG,
        emb_dim=16,
        head_dim=4,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "CONFIG", narrow)
        yield


@pytest.fixture(scope="module")
def short_run(tmp_path_factory, narrow_network):
    output = tmp_path_factory.mktemp("pretraining")
    code = pretrain.main(
        ["--output", str(output), "--steps", "3", "--batch-size", "8"]
        + ["--evaluation-examples", "4", "--threshold", "0.0"]
    )
    return output, code


@pytest.mark.slow
def test_a_short_run_writes_a_backbone_that_loads(short_run):
    output, code = short_run
    assert code == 0
    config, params = load_backbone(output / "backbone")
    assert config.vocab_size == 256
    assert params["token_embedder"]["embedding"].shape == (256, config.emb_dim)
    assert (output / "backbone" / "sentencepiece.model").is_file()
    assert sum(f.stat().st_size for f in (output / "backbone").iterdir()) < 4_000_000


@pytest.mark.slow
def test_a_backbone_below_the_threshold_is_not_kept(short_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        pretrain, "skill_accuracies", lambda *args, **kwargs: {"copy": 1.0, "entailment": 0.4}
    )
    code = pretrain.main(["--output", str(tmp_path), "--steps", "1", "--batch-size", "8"])
    assert code == 1
    assert not (tmp_path / "backbone").exists()
    assert "entailment" in capsys.readouterr().out


def test_batches_are_shifted_and_padded():
    examples = itertools.islice(skills.mixture("train", 0), 10)
    ((names, batch),) = pretrain.batches(examples, encode, 8)
    assert len(names) == 8
    targets = batch["decoder_target_tokens"]
    assert batch["encoder_input_tokens"].shape == (8, pretrain.SOURCE_LENGTH)
    assert (batch["decoder_input_tokens"][:, 0] == 0).all()
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], targets[:, :-1])
    for row in batch["encoder_input_tokens"]:
        length = np.count_nonzero(row)
        assert row[length - 1] == 1
        assert not row[length:].any()


@pytest.mark.slow
def test_a_run_can_start_from_a_backbone(short_run, tmp_path):
    output, _ = short_run
    start = output / "backbone"
    flags = ["--steps", "1", "--batch-size", "8", "--evaluation-examples", "4"]
    pretrain.main(["--output", str(tmp_path), "--start", str(start), "--learning-rate=0", *flags])
    _, before = load_backbone(start)
    _, after = load_backbone(tmp_path / "step_1")
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(short_run, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(*args, **kwargs):
        raise Stopped

    command = ["--output", str(tmp_path), "--steps", "3", "--batch-size", "8"]
    command += ["--evaluation-examples", "4", "--threshold", "0.0", "--evaluation-period", "1"]
    accuracies = pretrain.skill_accuracies
    answers = iter([accuracies, stop])
    monkeypatch.setattr(pretrain, "skill_accuracies", lambda *a, **k: next(answers)(*a, **k))
    with pytest.raises(Stopped):
        pretrain.main(command)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoints", "step_1"]
    monkeypatch.setattr(pretrain, "skill_accuracies", accuracies)
    assert pretrain.main(command) == 0
    whole = short_run[0] / "backbone" / "model.safetensors"
    assert (tmp_path / "backbone" / "model.safetensors").read_bytes() == whole.read_bytes()
    assert pretrain.main(command) == 0  # Nothing is left to do.
    with pytest.raises(InputError, match="'steps': 3.*'steps': 4.*that run's flags"):
        pretrain.main([*command, "--steps", "4"])


def test_a_text_that_does_not_fit_is_refused():
    example = skills.Example("copy", " ".join(["dog"] * 36), "dog")
    with pytest.raises(ValueError, match="36"):
        next(pretrain.batches(iter([example]), encode, 1))


@pytest.mark.slow
def test_learning_rates_differ_by_their_multipliers():
    tx = pretrain.optimizer(1.0, 10)
    ones = np.ones(3, np.float32)
    params = {"relpos_bias": {"rel_embedding": ones}, "mlp": {"kernel": ones}}
    gradients = jax.tree.map(np.ones_like, params)
    update = jax.jit(tx.update)
    _, state = update(gradients, jax.jit(tx.init)(params), params)
    updates, _ = update(gradients, state, params)
    ratio = updates["relpos_bias"]["rel_embedding"] / updates["mlp"]["kernel"]
    np.testing.assert_allclose(ratio, 30.0, rtol=1e-5)


@pytest.mark.slow
def test_exact_matches_agree_with_greedy_decoding():
    from dpt_jax.models.decoding import greedy_decode

    model = Transformer(pretrain.CONFIG)
    params = pretrain.initial_params(model, 0)
    ((_, batch),) = pretrain.batches(itertools.islice(skills.mixture("train", 1), 8), encode, 8)
    decode = jax.jit(greedy_decode, static_argnums=(0, 3))
    generated = np.asarray(
        decode(model, params, batch["encoder_input_tokens"], pretrain.TARGET_LENGTH)
    )
    # Half of the targets become what the model writes, so that both outcomes occur.
    targets = batch["decoder_target_tokens"].copy()
    targets[::2] = np.where(generated[::2] == 0, 5, generated[::2])
    batch = dict(
        batch,
        decoder_target_tokens=targets,
        decoder_input_tokens=np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    )
    same = ((generated == targets) | (targets == 0)).all(axis=1)
    np.testing.assert_array_equal(pretrain.exact_matches(model, params, batch), same)


@pytest.mark.parametrize("shape", pretrain.SHAPES)
def test_every_shape_has_the_heads_that_start_as_parts(shape):
    config = dataclasses.replace(pretrain.CONFIG, **pretrain.SHAPES[shape])
    # Three matchers and four neighbours.
    assert config.num_heads >= 7 and config.vocab_size == 256
    if shape == "t5_1_0":
        assert config.logits_via_embedding and config.mlp_activations == ("relu",)
    if shape == "double":
        sizes = ("emb_dim", "num_encoder_layers", "num_decoder_layers")
        # The fixture has made the demo's own narrow.
        assert [getattr(config, name) for name in sizes] == [256, 6, 4]
