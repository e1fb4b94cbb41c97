"""PREFIX_TUNING adapters against PEFT itself: it computes what we write, and we what it writes."""

import functools
import json
import logging

import jax
import numpy as np
import pytest

from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone
from dpt_jax.interop.peft_adapter import BaseModel
from dpt_jax.interop.peft_prefix import read_prefix, slots, write_prefix
from dpt_jax.interop.prefixes import FoldedPrefix
from dpt_jax.models import Transformer
from dpt_jax.models.decoding import beam_search, greedy_decode

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
peft = pytest.importorskip("peft", reason="PEFT is not installed (extra `interop`)")
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")

from tests.models.hugging_face import SIZES, random_batch, random_t5  # noqa: E402

pytestmark = [pytest.mark.interop, pytest.mark.slow]

N = 3
# Encoder layers: odd, which PEFT takes for the number of layers, and even. The decoder has two.
FORMS = {"t5_1_0": 3, "t5_1_1": 2}


@pytest.fixture(scope="module", params=FORMS)
def both(request, tmp_path_factory):
    """Hugging Face's random T5, and ours of its folder."""
    model = random_t5(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    config, params = load_backbone(folder)
    return folder, config, params


def hugging_face(folder, adapter):
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    wrapped = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
    prepare = wrapped.prepare_inputs_for_generation

    def prepared(*args, **kwargs):
        # Transformers 5.24 has renamed the argument, and goes by the new name where it finds both:
        # without this, `generate` of peft 0.21.2 loses the prefix.
        found = prepare(*args, **kwargs)
        if "cache" in found and found.get("past_key_values") is not None:
            found["cache"] = found.pop("past_key_values")
        return found

    wrapped.prepare_inputs_for_generation = prepared
    return wrapped


def compare(folder, config, params, adapter, prefix):
    """Logits, greedy decoding and beam search of PEFT's model and ours."""
    theirs = hugging_face(folder, adapter)
    ours = Transformer(config, prefix=prefix.module(config))
    params = params | {"prefix": dict(prefix.arrays)}
    # PEFT's mask of decoder_attention_mask is for whole targets, so that none is padded.
    source, _, _ = random_batch(7, 5)
    target = np.random.default_rng(3).integers(2, SIZES["vocab_size"], (3, 5)).astype(np.int32)
    decoder_input = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
    ids = torch.tensor(source.astype(np.int64))
    mask = (ids > 0).long()
    with torch.no_grad():
        expected = theirs(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=torch.tensor(decoder_input.astype(np.int64)),
        ).logits.numpy()
    found = jax.jit(functools.partial(ours.apply, enable_dropout=False))(
        {"params": params}, source, decoder_input, target
    )
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    # Without a cache of the tokens: with one, this PEFT forgets them at every step.
    generate = functools.partial(
        theirs.generate,
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=6,
        use_cache=False,
    )
    expected = generate()[:, 1:].numpy()
    found = jax.jit(functools.partial(greedy_decode, ours, max_decode_length=6))(params, source)
    np.testing.assert_array_equal(_ended(found), _ended(expected))
    # Without a length penalty, so that the two searches rank alike.
    expected = generate(num_beams=3, length_penalty=0.0, early_stopping="never")[:, 1:].numpy()
    search = functools.partial(
        beam_search, ours, max_decode_length=6, beam_size=3, length_penalty=0.0
    )
    found = jax.jit(lambda *args: search(*args)[0][:, 0])(params, source)
    # Where the longest length is reached, the two choose among other hypotheses.
    whole = (expected == 1).any(axis=1)
    np.testing.assert_array_equal(_ended(found)[whole], _ended(expected)[whole])


def _ended(tokens):
    """Tokens up to the end, in six places."""
    tokens = np.asarray(tokens)
    tokens = np.pad(tokens, ((0, 0), (0, 6 - tokens.shape[1])))
    after = np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0
    return np.where(after, 0, tokens)


def random_prefix(config, seed=0):
    rng = np.random.default_rng(seed)
    shape = (config.num_decoder_layers, N, config.num_heads, config.head_dim)
    arrays = {f"decoder_{kind}": rng.normal(size=shape) for kind in ("keys", "values")}
    return FoldedPrefix({n: a.astype(np.float32) for n, a in arrays.items()}, "front")


def test_peft_computes_what_we_write(both, tmp_path):
    folder, config, params = both
    prefix = random_prefix(config)
    write_prefix(tmp_path, prefix, BaseModel(str(folder)))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["num_layers"] == 3
    compare(folder, config, params, tmp_path, prefix)
    again = read_prefix(tmp_path, config.num_decoder_layers)
    for name, array in prefix.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


@pytest.mark.parametrize("projection", [False, True])
def test_we_compute_what_peft_writes(both, tmp_path, projection, caplog):
    folder, config, params = both
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(0)
    made = peft.get_peft_model(
        model,
        peft.PrefixTuningConfig(
            task_type="SEQ_2_SEQ_LM",
            num_virtual_tokens=N,
            token_dim=config.num_heads * config.head_dim,
            prefix_projection=projection,
            encoder_hidden_size=7,
        ),
    )
    made.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        prefix = read_prefix(tmp_path, config.num_decoder_layers)
    assert prefix.length == N
    # Three layers: slots 2 and 3 are not the decoder's. Two: both layers have slots 0 and 1.
    assert "2 of" in caplog.text
    if config.num_encoder_layers == 2:
        np.testing.assert_array_equal(*prefix.arrays["decoder_keys"])
    compare(folder, config, params, tmp_path, prefix)


def test_a_decoder_of_more_layers_than_the_adapter_is_refused_as_peft_does(tmp_path):
    model = random_t5("t5_1_1")
    heads, width = model.config.num_heads, model.config.d_kv
    kinds = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": N, "num_layers": 1}
    made = peft.get_peft_model(
        model,
        peft.PrefixTuningConfig(**kinds, token_dim=heads * width, num_attention_heads=heads),
    )
    made.save_pretrained(tmp_path)
    source, decoder_input, _ = (torch.tensor(x.astype(np.int64)) for x in random_batch(7, 5))
    with pytest.raises(IndexError):
        made(input_ids=source, decoder_input_ids=decoder_input)
    with pytest.raises(InputError, match=r"prefixes for 1 layers \(num_layers\), but the decoder"):
        read_prefix(tmp_path, 2)


def test_slots():
    assert [slots(layer, 3) for layer in range(3)] == [(0, 1), (4, 5), (2, 3)]
    assert [slots(layer, 6) for layer in range(6)] == [(0, 1), (4, 5), (8, 9)] * 2


@pytest.mark.parametrize(
    ("stacks", "bias", "message"),
    [
        (("encoder",), "front", "acts on encoder with position_bias 'front'"),
        (("decoder", "cross"), "front", "acts on decoder, cross"),
        (("decoder",), "none", "position_bias 'none'"),
    ],
)
def test_what_peft_does_not_compute_is_not_written(tmp_path, stacks, bias, message):
    zeros = np.zeros((2, N, 4, 6), np.float32)
    arrays = {f"{stack}_{kind}": zeros for stack in stacks for kind in ("keys", "values")}
    with pytest.raises(InputError, match=message):
        write_prefix(tmp_path / "new", FoldedPrefix(arrays, bias), BaseModel())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("base", [BaseModel(), BaseModel(num_decoder_layers=2)])
def test_a_prefix_of_the_first_layer_is_not_written(tmp_path, base):
    zeros = np.zeros((1, N, 4, 6), np.float32)
    prefix = FoldedPrefix({"decoder_keys": zeros, "decoder_values": zeros}, "front")
    with pytest.raises(InputError, match="acts on 1 of the decoder's layers"):
        write_prefix(tmp_path / "new", prefix, base)
    write_prefix(tmp_path, prefix, BaseModel(num_decoder_layers=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type is 'LORA'"),
        ({"task_type": "CAUSAL_LM"}, "task_type is 'CAUSAL_LM'"),
        ({"num_transformer_submodules": 1}, "num_transformer_submodules is 1"),
        ({"num_layers": 4}, r"has shape \(3, 144\), but adapter_config.json says"),
        ({"num_attention_heads": 5}, "num_attention_heads 5"),
    ],
)
def test_adapter_of_another_layout_is_refused(tmp_path, change, message):
    zeros = np.zeros((2, N, 4, 6), np.float32)
    prefix = FoldedPrefix({"decoder_keys": zeros, "decoder_values": zeros}, "front")
    write_prefix(tmp_path, prefix, BaseModel())
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_prefix(tmp_path, 2)
