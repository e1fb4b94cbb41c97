"""Backbones in our own folder: saved, loaded in place, and refused when they do not fit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone, open_backbone, save_backbone
from dpt_jax.models import T5Config
from tests.models.random_weights import random_parameters

CONFIG = T5Config(
    vocab_size=24,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    head_dim=6,
    mlp_dim=20,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)


@pytest.fixture
def params():
    return random_parameters(CONFIG)


@pytest.fixture
def folder(tmp_path, params):
    vocabulary = tmp_path / "sentencepiece.model"
    vocabulary.write_bytes(b"pieces")
    save_backbone(tmp_path / "backbone", CONFIG, params, files=[vocabulary])
    return tmp_path / "backbone"


def test_what_is_saved_is_loaded_bit_for_bit(folder, params):
    config, loaded = load_backbone(folder)
    assert config == CONFIG
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert (folder / "sentencepiece.model").read_bytes() == b"pieces"


def test_bfloat16_parameters_stay_bfloat16(tmp_path, params):
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    # Norms are often kept in float32; the two dtypes may share a file.
    half["encoder"]["encoder_norm"]["scale"] = params["encoder"]["encoder_norm"]["scale"]
    save_backbone(tmp_path / "half", CONFIG, half)
    _, loaded = load_backbone(tmp_path / "half")
    for name, array in flatten_dict(loaded, sep="/").items():
        expected = np.asarray(flatten_dict(half, sep="/")[name])
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_the_safetensors_package_reads_our_file(folder, params):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    theirs = numpy.load_file(folder / "model.safetensors")
    ours = flatten_dict(params, sep="/")
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(array, ours[name])


def test_we_read_what_the_safetensors_package_writes(folder, params):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    numpy.save_file(
        {name: array.astype(np.float16) for name, array in flatten_dict(params, sep="/").items()},
        folder / "model.safetensors",
    )
    _, loaded = load_backbone(folder)
    for name, array in flatten_dict(loaded, sep="/").items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, flatten_dict(params, sep="/")[name].astype(np.float16))


def test_loaded_arrays_are_views_of_the_mapped_file(folder):
    _, loaded = load_backbone(folder)
    for array in flatten_dict(loaded, sep="/").values():
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_the_callers_dtype_and_dropout_are_kept(folder):
    wanted = dataclasses.replace(CONFIG, dtype="bfloat16", dropout_rate=0.2)
    assert load_backbone(folder, wanted)[0] == wanted


def test_opening_reads_no_parameter(folder):
    # The bytes are there, but nothing of them makes sense.
    weights = folder / "model.safetensors"
    backbone = open_backbone(folder)
    assert backbone.format == "dpt"
    assert backbone.tensors["token_embedder/embedding"].shape == (24, 16)
    stored = sum(tensor.nbytes for tensor in backbone.tensors.values())
    assert stored < weights.stat().st_size < stored + 8192


def test_another_model_size_names_the_first_parameter_and_both_shapes(folder):
    other = dataclasses.replace(CONFIG, emb_dim=32)
    with pytest.raises(InputError) as error:
        load_backbone(folder, other)
    message = str(error.value)
    assert "token_embedder/embedding" in message
    assert "(24, 16)" in message and "(24, 32)" in message
    assert "INITIAL_CHECKPOINT_PATH" in message and "model gin file" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_encoder_layers": 3}, r"encoder/layers_2/\S+ is missing"),
        ({"num_encoder_layers": 1}, r"encoder/layers_1/\S+ has shape .* no such parameter"),
        ({"num_heads": 3, "head_dim": 4}, r"encoder/relpos_bias/rel_embedding has shape \(2, 32\)"),
        ({"logits_via_embedding": True}, r"decoder/logits_dense/kernel has shape \(16, 24\)"),
        ({"mlp_activations": ("silu", "linear")}, r"mlp_activations is \('gelu', 'linear'\)"),
        (
            {"relpos_bias_per_layer": True},
            "relpos_bias_per_layer is False, .* model file says True",
        ),
    ],
)
def test_every_other_difference_of_the_model_is_named(folder, change, named):
    with pytest.raises(InputError, match=named):
        load_backbone(folder, dataclasses.replace(CONFIG, **change))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*nowhere.*INITIAL_CHECKPOINT_PATH"):
        load_backbone(tmp_path / "nowhere")


def test_a_file_in_place_of_its_folder_is_named(folder):
    with pytest.raises(InputError, match="is a file.*takes the folder it lies in"):
        load_backbone(folder / "model.safetensors")


def test_a_folder_of_something_else_tells_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"(?s)backbone\.json.*config\.json.*found notes\.txt"):
        load_backbone(tmp_path)


def test_a_folder_of_backbones_names_them(folder):
    with pytest.raises(InputError, match="holds backbone: name one"):
        load_backbone(folder.parent)


@pytest.mark.parametrize("missing", ["backbone.json", "model.safetensors"])
def test_a_half_copied_folder_is_refused(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=missing):
        load_backbone(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_weights_file_is_refused(folder, keep):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors is not a whole safetensors file"):
        load_backbone(folder)


@pytest.mark.parametrize("name", [".backbone.tmp-x1", "checkpoint_5.tmp", "5.orbax-checkpoint-tmp"])
def test_what_an_interrupted_writer_left_is_refused(folder, name):
    unfinished = folder.rename(folder.parent / name)
    with pytest.raises(InputError, match="did not finish"):
        load_backbone(unfinished)


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        ("{", "does not describe a backbone"),
        ('{"format": "dpt-jax backbone", "version": 2, "config": {}}', "version 2"),
        ('{"format": "other", "version": 1, "config": {}}', "'other'"),
        ('{"format": "dpt-jax backbone", "version": 1, "config": {"width": 3}}', "width"),
    ],
)
def test_a_wrong_header_is_refused(folder, contents, named):
    (folder / "backbone.json").write_text(contents)
    with pytest.raises(InputError, match=named):
        load_backbone(folder)


def test_a_header_that_the_weights_contradict_is_refused(folder):
    path = folder / "backbone.json"
    header = json.loads(path.read_text())
    header["config"]["mlp_dim"] = 21
    path.write_text(json.dumps(header))
    with pytest.raises(
        InputError, match=r"mlp/wi_0/kernel .*but backbone\.json asks for \(16, 21\)"
    ):
        load_backbone(folder)


def test_a_full_folder_is_never_overwritten(folder, params):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="exists"):
        save_backbone(folder, CONFIG, params)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_parameters_that_do_not_fit_their_config_are_not_saved(tmp_path, params):
    with pytest.raises(InputError, match="token_embedder/embedding"):
        save_backbone(tmp_path / "new", dataclasses.replace(CONFIG, vocab_size=25), params)
    assert not any(tmp_path.iterdir())


def test_a_failed_save_leaves_nothing_behind(tmp_path, params):
    with pytest.raises(FileNotFoundError):
        save_backbone(tmp_path / "new", CONFIG, params, files=[tmp_path / "no vocabulary"])
    assert not any(tmp_path.iterdir())
