"""Conversions: which bits, files and dtypes arrive."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors import safe_open

from dpt_jax.data.folder_vocabulary import named_by, open_vocabulary
from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone, open_backbone, save_backbone
from dpt_jax.interop.conversion import convert
from dpt_jax.interop.hugging_face import write_folder
from dpt_jax.models import T5Config
from dpt_jax.tensors import in_memory
from tests.models.random_weights import random_parameters

TIED = T5Config(
    vocab_size=24,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    head_dim=6,
    mlp_dim=32,
    mlp_activations=("relu",),
    dropout_rate=0.0,
    logits_via_embedding=True,
)
UNTIED = dataclasses.replace(TIED, mlp_activations=("gelu", "linear"), logits_via_embedding=False)


@pytest.fixture(params=[TIED, UNTIED], ids=["tied", "untied"])
def config(request):
    return request.param


@pytest.fixture
def ours(tmp_path, config):
    vocabulary = tmp_path / "sentencepiece.model"
    vocabulary.write_bytes(b"pieces")
    save_backbone(tmp_path / "ours", config, random_parameters(config), files=[vocabulary])
    return tmp_path / "ours"


def check_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for name, array in flatten_dict(ours, sep="/").items():
        other = flatten_dict(theirs, sep="/")[name]
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other, err_msg=name)


def test_ours_to_hugging_face_and_back_is_exact(ours, config, tmp_path):
    assert convert(ours, tmp_path / "hf", to="hf").format == "hf"
    convert(tmp_path / "hf", tmp_path / "back")
    found, params = load_backbone(tmp_path / "back")
    assert found == config
    check_equal(params, random_parameters(config))


def test_the_vocabulary_gets_each_formats_own_name(ours, tmp_path):
    convert(ours, tmp_path / "hf", to="hf")
    assert (tmp_path / "hf" / "spiece.model").read_bytes() == b"pieces"
    convert(tmp_path / "hf", tmp_path / "back")
    names = {path.name for path in (tmp_path / "back").iterdir()}
    assert {"backbone.json", "model.safetensors", "sentencepiece.model"} <= names
    assert "spiece.model" not in names
    assert (tmp_path / "back" / "sentencepiece.model").read_bytes() == b"pieces"


def test_what_hugging_face_keeps_beside_the_weights_comes_back(ours, tmp_path):
    convert(ours, tmp_path / "hf", to="hf")
    path = tmp_path / "hf" / "config.json"
    stated = {**json.loads(path.read_text()), "task_specific_params": {"summarization": {}}}
    path.write_text(json.dumps(stated))
    (tmp_path / "hf" / "tokenizer_config.json").write_text('{"extra_ids": 100}')
    (tmp_path / "hf" / "generation_config.json").write_text('{"max_new_tokens": 3}')
    convert(tmp_path / "hf", tmp_path / "ours2")
    convert(tmp_path / "ours2", tmp_path / "hf2", to="hf")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        kept = (tmp_path / "hf2" / name).read_text()
        assert json.loads(kept) == json.loads((tmp_path / "hf" / name).read_text())


def test_a_model_that_says_byt5_in_its_config_alone_keeps_its_tokenizer(ours, tmp_path):
    convert(ours, tmp_path / "hf", to="hf")
    (tmp_path / "hf" / "spiece.model").unlink()
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "ByT5Tokenizer"}))
    convert(tmp_path / "hf", tmp_path / "dpt")
    for name in ("hf", "dpt"):
        assert open_vocabulary(tmp_path / name, 384).encode("ab") == [100, 101]
    assert named_by(tmp_path / "dpt") == "bytes"


def test_bfloat16_halves_the_copy_and_rounds_to_nearest_even(ours, config, tmp_path):
    half = convert(ours, tmp_path / "half", dtype="bfloat16")
    full = open_backbone(ours)
    assert 2 * sum(t.nbytes for t in half.tensors.values()) == sum(
        t.nbytes for t in full.tensors.values()
    )
    for name, array in flatten_dict(load_backbone(tmp_path / "half")[1], sep="/").items():
        exact = flatten_dict(random_parameters(config), sep="/")[name]
        # JAX's own rounding is another implementation than NumPy's with ml_dtypes.
        np.testing.assert_array_equal(array, np.asarray(jnp.asarray(exact).astype(jnp.bfloat16)))
    convert(tmp_path / "half", tmp_path / "hf", to="hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    back = convert(tmp_path / "half", tmp_path / "wide", dtype="float32")
    assert {tensor.dtype.name for tensor in back.tensors.values()} == {"float32"}


def test_large_weights_are_split_over_files_with_an_index(config, tmp_path):
    params = random_parameters(config)
    tensors = {name: in_memory(array) for name, array in flatten_dict(params, sep="/").items()}
    write_folder(tmp_path / "hf", config, tensors, shard_bytes=4000)
    assert not (tmp_path / "hf" / "model.safetensors").exists()
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "hf").glob("model-*.safetensors"))
    assert [path.name for path in files] == sorted(set(index["weight_map"].values()))
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    stored = {}
    for path in files:
        with safe_open(path, "np") as shard:
            sizes = {name: shard.get_tensor(name).nbytes for name in shard.keys()}
        assert sum(sizes.values()) <= 4000 or len(sizes) == 1
        assert {index["weight_map"][name] for name in sizes} == {path.name}
        stored |= sizes
    assert index["metadata"]["total_size"] == sum(stored.values())
    check_equal(load_backbone(tmp_path / "hf")[1], params)


@pytest.mark.interop
@pytest.mark.parametrize("shard_bytes", [4000, 10**9])
def test_transformers_loads_what_is_written_whole_or_split(config, tmp_path, shard_bytes):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
    transformers = pytest.importorskip("transformers", reason="not installed (extra `interop`)")
    params = random_parameters(config)
    tensors = {name: in_memory(array) for name, array in flatten_dict(params, sep="/").items()}
    write_folder(tmp_path / "hf", config, tensors, shard_bytes=shard_bytes)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    assert model.config.scale_decoder_outputs is config.logits_via_embedding
    table = torch.from_numpy(params["token_embedder"]["embedding"])
    head = table
    if not config.logits_via_embedding:
        head = torch.from_numpy(params["decoder"]["logits_dense"]["kernel"]).T
    assert torch.equal(model.shared.weight, table)
    assert torch.equal(model.lm_head.weight, head)
    assert model.generation_config.decoder_start_token_id == 0


def test_a_network_that_hugging_face_has_not_is_refused(tmp_path):
    odd = dataclasses.replace(UNTIED, mlp_activations=("gelu",))
    save_backbone(tmp_path / "odd", odd, random_parameters(odd))
    with pytest.raises(InputError, match=r"mlp_activations are \('gelu',\)"):
        convert(tmp_path / "odd", tmp_path / "hf", to="hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"to": "onnx"}, "--to is 'onnx'.*dpt, hf"), ({"dtype": "int8"}, "--dtype is 'int8'")],
)
def test_an_unknown_format_or_dtype_is_refused(tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        convert(tmp_path, tmp_path / "new", **change)


def resident_bytes(path) -> int:
    """Bytes of the mapped file that are in this process's memory."""
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            resident += 1024 * int(line.split()[1])
    return resident


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Hugging Face's folder of a model of 59 megabytes, the largest parameter of which has four."""
    folder = tmp_path_factory.mktemp("large")
    config = dataclasses.replace(
        UNTIED, vocab_size=2**14, mlp_dim=2**14, emb_dim=64, num_decoder_layers=2
    )
    save_backbone(folder / "ours", config, random_parameters(config))
    convert(folder / "ours", folder / "hf", to="hf")
    return folder / "hf"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is resident")
@pytest.mark.parametrize("pickled", [False, pytest.param(True, marks=pytest.mark.interop)])
def test_a_mapped_file_is_not_kept_in_memory_while_it_is_gone_through(large, pickled, tmp_path):
    weights = large / "model.safetensors"
    if pickled:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        state = pytest.importorskip("safetensors.torch").load_file(weights)
        shutil.copy(large / "config.json", tmp_path)
        weights = tmp_path / "pytorch_model.bin"
        torch.save(state, weights)
        del state
    backbone = open_backbone(weights.parent)
    tensor = backbone.tensors["decoder/logits_dense/kernel"]
    array = tensor.source()
    assert array.sum() != 0 and resident_bytes(weights) >= tensor.nbytes
    del array
    expected = flatten_dict(random_parameters(backbone.config), sep="/")
    for name, tensor in backbone.tensors.items():
        read = np.concatenate([np.ravel(block) for block in tensor.blocks()])
        np.testing.assert_array_equal(read, np.ravel(expected[name]))
        # The system may map two megabytes around every page that is read, and is slow to tell.
        if tensor.nbytes > 500_000:
            assert resident_bytes(weights) < 12_000_000


@pytest.mark.slow
@pytest.mark.parametrize("format", ["dpt", "hf"])
def test_jax_on_a_cpu_uses_loaded_parameters_where_they_lie(large, format):
    folder = large if format == "hf" else large.parent / "ours"
    for name, array in flatten_dict(load_backbone(folder)[1], sep="/").items():
        placed = jax.device_put(array)
        assert placed.unsafe_buffer_pointer() == array.ctypes.data, name
