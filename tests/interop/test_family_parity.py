"""Every family of T5, random, in Hugging Face's own class: the same logits and greedy tokens here.

The widths are those of each family's small model; the vocabulary and the layers are cut down. An
encoder's number of layers is not its decoder's where the family's are not.
"""

import functools

import jax
import numpy as np
import pytest

from dpt_jax.interop import load_backbone
from dpt_jax.interop.conversion import convert
from dpt_jax.models import Transformer, decoding
from tests.models.hugging_face import random_batch

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
transformers = pytest.importorskip(
    "transformers", reason="Transformers is not installed (extra `interop`)"
)

pytestmark = pytest.mark.interop

V1_1 = {
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_heads": 6,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "vocab_size": 256,
}
# As the published config.json of each has it, with what it says besides.
FAMILIES = {
    "t5_1_0": {
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_heads": 8,
        "num_layers": 2,
        "vocab_size": 256,
        "n_positions": 512,
    },
    "t5_1_1": V1_1,
    "lm_adapted": {**V1_1, "output_past": True},
    "flan_t5": {**V1_1, "n_positions": 512, "task_specific_params": {"summarization": {}}},
    "mt5": {**V1_1, "tokenizer_class": "T5Tokenizer"},
    "umt5": {**V1_1, "num_decoder_layers": 1, "tokenizer_class": "T5Tokenizer"},
    "umt5_tied": {**V1_1, "tie_word_embeddings": True, "num_layers": 1},
    "byt5": {
        **V1_1,
        "d_model": 1472,
        "d_ff": 3584,
        "num_layers": 2,
        "num_decoder_layers": 1,
        "vocab_size": 384,
        "tokenizer_class": "ByT5Tokenizer",
    },
}
STEPS = 6
SOURCE, DECODER_INPUT, TARGET = random_batch(17, STEPS)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """The PyTorch model in evaluation mode, and the folder that it saved."""
    kind = {"mt5": "MT5", "umt5": "UMT5", "umt5_tied": "UMT5"}.get(request.param, "T5")
    config = getattr(transformers, f"{kind}Config")(
        **FAMILIES[request.param], dropout_rate=0.0, decoder_start_token_id=0
    )
    torch.manual_seed(7)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    if not FAMILIES[request.param].get("tie_word_embeddings", True):
        # Transformers ties the two in every new model; all these have two.
        head = torch.randn(model.lm_head.weight.shape) * config.d_model**-0.5
        model.lm_head.weight = torch.nn.Parameter(head)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape))
            elif "relative_attention_bias" in name:
                parameter.copy_(torch.randn(parameter.shape))
    folder = tmp_path_factory.mktemp(request.param) / "hf"
    model.save_pretrained(folder)
    return model, folder


def logits(model):
    tokens = torch.from_numpy(SOURCE).long()
    with torch.no_grad():
        return model(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            decoder_input_ids=torch.from_numpy(DECODER_INPUT).long(),
        ).logits.numpy()


def greedy_tokens(model):
    tokens = torch.from_numpy(SOURCE).long()
    out = model.generate(
        input_ids=tokens, attention_mask=(tokens > 0).long(), max_new_tokens=STEPS, do_sample=False
    )
    out = out[:, 1:].numpy()
    return np.pad(out, ((0, 0), (0, STEPS - out.shape[1])))


@functools.cache
def programs(config):
    """Compiled once for the families that share a network."""
    network = Transformer(config)
    apply = functools.partial(network.apply, enable_dropout=False)
    generate = functools.partial(decoding.greedy_decode, network, max_decode_length=STEPS)
    return jax.jit(apply), jax.jit(generate)


@pytest.mark.slow
def test_logits_and_greedy_tokens_equal_pytorchs(family):
    model, folder = family
    config, params = load_backbone(folder)
    apply, generate = programs(config)
    ours = np.asarray(apply({"params": params}, SOURCE, DECODER_INPUT, TARGET))
    theirs = logits(model)
    assert theirs.std() > 0.3
    np.testing.assert_allclose(ours[TARGET > 0], theirs[TARGET > 0], atol=1e-4, rtol=0)
    tokens = np.asarray(generate(params, SOURCE))
    np.testing.assert_array_equal(tokens, greedy_tokens(model))


@pytest.mark.slow
def test_to_our_folder_and_back_gives_the_same_model_bit_for_bit(family, tmp_path):
    model, folder = family
    convert(folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs", to="hf")
    back = type(model).from_pretrained(tmp_path / "theirs").eval()
    before, after = model.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor), name
    np.testing.assert_array_equal(logits(back), logits(model))
    ignored = {"transformers_version", "_name_or_path", "tie_word_embeddings"}
    stated = {k: v for k, v in model.config.to_dict().items() if k not in ignored}
    assert {k: v for k, v in back.config.to_dict().items() if k in stated} == stated
