"""T5X checkpoints in the released format: what shapes tell, and what half a checkpoint does.

That they give T5X's logits is shown in tests/models/test_parity_t5x.py.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone, load_factors, load_prompt, open_backbone
from dpt_jax.interop.describe import describe
from dpt_jax.interop.parameters import parameter_shapes
from dpt_jax.interop.t5x_checkpoint import infer_config
from dpt_jax.models import T5Config
from tests.models.random_weights import random_parameters

GOLDENS = Path(__file__).parents[3] / "shared" / "data" / "t5x_goldens"
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
def checkpoint(tmp_path, params):
    """A checkpoint written by TensorStore the way T5X lays it out, its embedding in two chunks."""
    import tensorstore as ts

    folder = tmp_path / "checkpoint_1000000"
    specs = {}
    for name, array in flatten_dict(params, sep="/").items():
        target = "target." + name.replace("/", ".")
        rows = array.shape[0] // 2 if name == "token_embedder/embedding" else array.shape[0]
        metadata = {
            "chunks": [rows, *array.shape[1:]],
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(array.shape),
        }
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{folder / target}/"},
            "metadata": {**metadata, "dtype": "<f4"},
        }
        ts.open(spec, create=True).result().write(array).result()
        # What T5X keeps in the index is relative to the checkpoint.
        specs[name] = {
            "driver": "zarr",
            "dtype": "float32",
            "kvstore": {"driver": "file", "path": f"{target}/"},
            "metadata": metadata,
        }
    # T5X may keep small arrays in the index itself.
    scale = params["encoder"]["encoder_norm"]["scale"]
    shutil.rmtree(folder / "target.encoder.encoder_norm.scale")
    specs["encoder/encoder_norm/scale"] = scale
    state = {"step": np.int32(3), "param_states": {}}
    index = {"version": 3, "optimizer": {"target": unflatten_dict(specs, sep="/"), "state": state}}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    return folder


def test_parameters_and_sizes_are_read_without_any_configuration(checkpoint, params):
    config, loaded = load_backbone(checkpoint)
    assert config == CONFIG
    for name, array in flatten_dict(loaded, sep="/").items():
        np.testing.assert_array_equal(array, flatten_dict(params, sep="/")[name])


@pytest.mark.parametrize(
    "name", ["encoder/encoder/relpos_bias/rel_embedding", "encoder/layers_0/relpos_bias/x"]
)
def test_the_other_t5_network_of_t5xs_examples_is_named(name):
    with pytest.raises(InputError, match="scalable_t5 network .* Hugging Face folder"):
        infer_config({name: (2, 2, 32), "decoder/x": ()}, "checkpoint")


def test_a_url_is_read_as_a_folder_is(checkpoint):
    by_url = open_backbone(checkpoint.as_uri())
    assert (by_url.format, by_url.config) == ("t5x", CONFIG)


def test_the_callers_config_is_checked_and_kept(checkpoint):
    wanted = dataclasses.replace(CONFIG, dtype="bfloat16", dropout_rate=0.1)
    assert load_backbone(checkpoint, wanted)[0] == wanted
    with pytest.raises(InputError, match=r"mlp/wi_0/kernel has shape \(16, 20\).*\(16, 21\)"):
        load_backbone(checkpoint, dataclasses.replace(CONFIG, mlp_dim=21))


def test_the_gate_is_the_callers_to_say_as_shapes_do_not_tell_it(checkpoint):
    silu = dataclasses.replace(CONFIG, mlp_activations=("silu", "linear"))
    assert load_backbone(checkpoint, silu)[0] == silu


def test_a_configuration_beside_or_above_the_checkpoint_tells_the_gate(checkpoint):
    path = checkpoint.parent / "config.json"
    path.write_text(json.dumps({"mlp_activations": ["silu", "linear"]}))
    assert open_backbone(checkpoint).config.mlp_activations == ("silu", "linear")


@pytest.mark.parametrize("form", ["t5_1_0", "t5_1_1"])
def test_shapes_tell_what_t5x_wrote_down_about_its_own_checkpoints(form):
    folder = GOLDENS / form
    if not folder.exists():
        pytest.skip("the checkpoints that T5X wrote are not on this machine")
    stated = json.loads((folder / "config.json").read_text())
    config = open_backbone(folder / "checkpoint_3").config
    inferred = infer_config(parameter_shapes(config), str(folder))
    for name, value in stated.items():
        value = tuple(value) if isinstance(value, list) else value
        assert getattr(config, name) == value
        assert getattr(inferred, name) == value


def test_a_missing_chunk_is_an_error_and_not_zeros(checkpoint):
    (checkpoint / "target.token_embedder.embedding" / "1.0").unlink()
    with pytest.raises(InputError, match=r"token_embedder/embedding cannot be read.*missing"):
        load_backbone(checkpoint)


def test_a_missing_parameter_folder_is_named(checkpoint):
    shutil.rmtree(checkpoint / "target.decoder.decoder_norm.scale")
    with pytest.raises(InputError, match="decoder/decoder_norm/scale cannot be read"):
        load_backbone(checkpoint)


def test_a_missing_index_is_named(checkpoint):
    (checkpoint / "checkpoint").unlink()
    with pytest.raises(InputError, match="no file 'checkpoint'.*half written"):
        load_backbone(checkpoint)
    with pytest.raises(InputError, match="no file 'checkpoint'"):
        load_backbone(checkpoint.as_uri())


def test_a_truncated_index_is_refused(checkpoint):
    index = checkpoint / "checkpoint"
    index.write_bytes(index.read_bytes()[:-10])
    with pytest.raises(InputError, match="half written"):
        load_backbone(checkpoint)


def test_an_unfinished_checkpoint_is_refused(checkpoint):
    unfinished = checkpoint.rename(checkpoint.with_name("checkpoint_5.tmp-1700000000"))
    with pytest.raises(InputError, match="did not finish"):
        load_backbone(unfinished)


def test_the_folder_above_names_its_checkpoints(checkpoint):
    with pytest.raises(InputError, match="holds checkpoint_1000000: name one"):
        load_backbone(checkpoint.parent)


def test_an_orbax_checkpoint_is_called_by_its_name(tmp_path):
    (tmp_path / "_METADATA").write_text("{}")
    with pytest.raises(InputError, match="Orbax"):
        load_backbone(tmp_path)


def test_a_prompt_that_t5x_saved_beside_the_model_is_a_prompt_and_the_rest_the_model(
    checkpoint, params, tmp_path, capsys
):
    rng = np.random.default_rng(0)
    factors = {"A": rng.normal(size=(5, 2)), "B": rng.normal(size=(2, CONFIG.emb_dim))}
    factors = {name: array.astype(np.float32) for name, array in factors.items()}
    index = serialization.msgpack_restore((checkpoint / "checkpoint").read_bytes())
    index["optimizer"]["target"]["prompt"] = factors
    (checkpoint / "checkpoint").write_bytes(serialization.msgpack_serialize(index))

    loaded = flatten_dict(load_backbone(checkpoint)[1], sep="/")
    expected = flatten_dict(params, sep="/")
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array)
    np.testing.assert_allclose(load_prompt(checkpoint), factors["A"] @ factors["B"], rtol=1e-6)
    np.testing.assert_array_equal(load_factors(checkpoint)["A"], factors["A"])

    found = describe(str(checkpoint))
    assert found.kind == "backbone"
    assert found.details["prompt beside it"] == "A [5, 2], B [2, 16]"
    assert main(["convert", str(checkpoint), str(tmp_path / "copy")]) == 0
    assert "The prompt beside it (A [5, 2], B [2, 16]) stays" in capsys.readouterr().err
    assert load_backbone(tmp_path / "copy")[1].keys() == params.keys()
