"""Hugging Face folders in every form they come in, and the ones that are refused.

That the mapping is right is shown by logits, in tests/models/test_parity_hugging_face.py.
"""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone, open_backbone
from dpt_jax.interop.hugging_face import weight_name
from tests.models.hugging_face import random_t5

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
pytest.importorskip("transformers", reason="Transformers is not installed (extra `interop`)")

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module", params=["t5_1_0", "t5_1_1"])
def model(request):
    return random_t5(request.param)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def drop_config(folder, *names):
    path = folder / "config.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in names}
    path.write_text(json.dumps(kept))


def write_pickle(model, folder):
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def test_every_parameter_of_the_model_has_a_name_here(model, folder):
    config, params = load_backbone(folder)
    names = {weight_name(name)[0] for name in flatten_dict(params, sep="/")}
    copies = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if config.logits_via_embedding:
        copies.add("lm_head.weight")
    assert names == set(model.state_dict()) - copies
    count = sum(array.size for array in flatten_dict(params, sep="/").values())
    assert count == sum(parameter.numel() for parameter in model.parameters())


def test_shards_and_pickles_give_the_same_parameters_as_one_safetensors_file(
    model, folder, tmp_path
):
    _, expected = load_backbone(folder)
    sharded = tmp_path / "sharded"
    model.save_pretrained(sharded, max_shard_size="20KB")
    assert not (sharded / "model.safetensors").exists()
    jax.tree.map(np.testing.assert_array_equal, load_backbone(sharded)[1], expected)
    write_pickle(model, folder)
    jax.tree.map(np.testing.assert_array_equal, load_backbone(folder)[1], expected)


def test_a_pickle_of_bfloat16_stays_bfloat16(model, folder):
    _, expected = load_backbone(folder)
    (folder / "model.safetensors").unlink()
    state = {name: value.bfloat16() for name, value in model.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    for name, array in flatten_dict(load_backbone(folder)[1], sep="/").items():
        assert array.dtype.name == "bfloat16"
        np.testing.assert_array_equal(
            array, flatten_dict(expected, sep="/")[name].astype(array.dtype)
        )


def test_sharded_pickles_and_those_from_before_pytorch_1_6_are_read(model, folder):
    _, expected = load_backbone(folder)
    (folder / "model.safetensors").unlink()
    state, weight_map = model.state_dict(), {}
    for i, names in enumerate(np.array_split(list(state), 3), 1):
        shard = f"pytorch_model-{i:05d}-of-00003.bin"
        part = {str(name): state[name] for name in names}
        torch.save(part, folder / shard, _use_new_zipfile_serialization=i > 1)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    jax.tree.map(np.testing.assert_array_equal, load_backbone(folder)[1], expected)


@pytest.mark.parametrize(
    "held", [[1, 2], {"step": 3}, {"state_dict": {"shared.weight": torch.ones(2)}}]
)
def test_a_pickle_of_something_else_is_refused(folder, held):
    (folder / "model.safetensors").unlink()
    torch.save(held, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds .*other things than tensors"):
        load_backbone(folder)


def test_files_from_before_transformers_5_say_tied_or_not_in_their_own_way(folder):
    # Version 4 wrote tie_word_embeddings: false for T5 1.1, nothing for T5 1.0, and no scale.
    tied = open_backbone(folder).config.logits_via_embedding
    drop_config(folder, "scale_decoder_outputs", "tie_word_embeddings")
    if not tied:
        change_config(folder, tie_word_embeddings=False)
    assert open_backbone(folder).config.logits_via_embedding is tied


def test_an_untied_output_projection_under_a_tied_config_is_refused(model, folder):
    if open_backbone(folder).config.logits_via_embedding:
        pytest.skip("this form's projection is the embedding itself")
    change_config(folder, scale_decoder_outputs=True)
    with pytest.raises(InputError, match=r"lm_head\.weight differs from shared\.weight"):
        load_backbone(folder)


EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def rewrite(model, folder, kept, change=lambda weights: None):
    """The folder's weights with those of the embedding tables that are named in `kept`."""
    from safetensors.torch import save_file

    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for name in {*EMBEDDINGS, "lm_head.weight"} - set(kept):
        weights.pop(name)
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "kept",
    [*((name,) for name in EMBEDDINGS), EMBEDDINGS[1:], EMBEDDINGS],
    ids=lambda kept: "+".join(name.split(".")[0] for name in kept),
)
def test_one_table_under_any_of_its_names_is_the_model_that_transformers_loads(model, folder, kept):
    tied = open_backbone(folder).config.logits_via_embedding
    _, expected = load_backbone(folder)
    rewrite(model, folder, kept if tied else (*kept, "lm_head.weight"))
    theirs = type(model).from_pretrained(folder).state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in model.state_dict().items())
    jax.tree.map(np.testing.assert_array_equal, load_backbone(folder)[1], expected)


def test_a_tied_table_under_the_heads_name_alone_is_the_table(model, folder):
    tied = open_backbone(folder).config.logits_via_embedding
    _, expected = load_backbone(folder)
    rewrite(model, folder, ["lm_head.weight"])
    if tied:
        theirs = type(model).from_pretrained(folder).state_dict()
        assert torch.equal(theirs["shared.weight"], model.state_dict()["shared.weight"])
        jax.tree.map(np.testing.assert_array_equal, load_backbone(folder)[1], expected)
    else:
        change_config(folder, tie_word_embeddings=False)
        with pytest.raises(InputError, match="token_embedder/embedding is missing"):
            load_backbone(folder)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_tables_that_differ_are_refused_by_name(model, folder, stack, pickled):
    other = f"{stack}.embed_tokens.weight"

    def change(weights):
        # The last number alone, which a glance at the first rows would miss.
        weights[other][-1, -1] += 1
        if pickled:
            torch.save(weights, folder / "pytorch_model.bin")

    rewrite(model, folder, [*EMBEDDINGS, "lm_head.weight"], change)
    if pickled:
        (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"{other} \(96, 32\) differs from shared\.weight"):
        open_backbone(folder)


def test_a_missing_shard_is_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name} is missing"):
        load_backbone(tmp_path)


def test_a_truncated_shard_is_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(InputError, match=f"{shard.name} is not a whole"):
        load_backbone(tmp_path)


def test_a_pickle_that_runs_code_is_refused_and_not_run(model, folder, tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    (folder / "model.safetensors").unlink()
    torch.save({"shared.weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="refused"):
        load_backbone(folder)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_pickle_is_refused(model, folder):
    write_pickle(model, folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="half written"):
        load_backbone(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_half_copied_folder_is_refused(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=missing):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"model_type": "bart"}, "'bart'.*'t5'.*'mt5'"),
        ({"model_type": "umt5"}, r"layers_\d/relpos_bias/rel_embedding is missing"),
        ({"num_decoder_layers": 0}, "num_decoder_layers must be a positive integer, not 0"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn 'gelu', but feed_forward_proj"),
        ({"is_gated_act": 3}, "is_gated_act 3, but feed_forward_proj"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder"),
        ({"feed_forward_proj": "gelu"}, "feed_forward_proj 'gelu'.*relu, gated-gelu"),
        ({"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64"),
        (
            {"d_ff": 50},
            r"mlp/wi(_0)?/kernel has shape \(32, 48\), but config.json asks .*\(32, 50\)",
        ),
        ({"num_layers": 9}, r"encoder/layers_\d\S+ is missing"),
        ({"num_layers": 1}, r"does not account for, the first encoder\.block\.1"),
        ({"d_model": "wide"}, "does not describe a T5"),
    ],
)
def test_a_model_that_the_network_cannot_be_is_refused(folder, entries, named):
    change_config(folder, **entries)
    with pytest.raises(InputError, match=named):
        load_backbone(folder)


def test_an_encoder_without_its_decoder_is_refused(model, folder):
    from safetensors.torch import save_file

    state = {name: value for name, value in model.state_dict().items() if "decoder" not in name}
    state.pop("lm_head.weight")
    save_file(
        {k: v for k, v in state.items() if "embed_tokens" not in k}, folder / "model.safetensors"
    )
    with pytest.raises(InputError, match="holds no decoder"):
        load_backbone(folder)
