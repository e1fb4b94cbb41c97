"""The measured norm, against Hugging Face's T5, and where there is nothing to measure."""

import dataclasses

import jax
import numpy as np
import pytest

from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone
from dpt_jax.models import T5Config, Transformer
from dpt_jax.models.residual_norm import residual_norm, sample_tokens
from tests.models import hugging_face
from tests.models.random_weights import random_parameters

SIZES = {"vocab_size": 40, "emb_dim": 16, "num_heads": 2, "head_dim": 4, "mlp_dim": 24}
T5 = T5Config(**SIZES, num_encoder_layers=2, num_decoder_layers=1)


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("form", hugging_face.FORMS)
def test_it_is_that_of_hugging_faces_last_block(form, tmp_path):
    import torch

    model = hugging_face.random_t5(form)
    model.save_pretrained(tmp_path)
    config, params = load_backbone(tmp_path)
    seen = []
    model.encoder.block[-1].register_forward_hook(lambda *args: seen.append(args[-1][0]))
    sources, *_ = hugging_face.random_batch(9, 4)
    for tokens in (sample_tokens(config.vocab_size), sources):
        text, real = torch.as_tensor(tokens, dtype=torch.long), torch.as_tensor(tokens > 0)
        with torch.no_grad():
            model.encoder(text, attention_mask=real.long())
        expected = seen.pop().norm(dim=-1)[real].mean().item()
        found = residual_norm(config, params, tokens)
        assert found == pytest.approx(expected, rel=6e-3)  # Three digits.
    assert found == residual_norm(dataclasses.replace(config, dtype="bfloat16"), params, tokens)
    assert found != residual_norm(config, params)


def test_a_umt5s_layers_have_their_own_position_bias():
    config = dataclasses.replace(T5, relpos_bias_per_layer=True)
    params = random_parameters(config)

    def encode(params):
        tokens = sample_tokens(config.vocab_size)
        return Transformer(config).apply(
            {"params": params},
            tokens,
            method="encode",
            enable_dropout=False,
            capture_intermediates=lambda module, _: module.name == "layers_1",
            mutable=["intermediates"],
        )[1]

    [last] = jax.jit(encode)(params)["intermediates"]["encoder"]["layers_1"]["__call__"]
    expected = np.linalg.norm(last, axis=-1).mean()
    del params["decoder"]  # Not read.
    assert residual_norm(config, params) == pytest.approx(expected, rel=6e-3)


def test_the_tokens_are_pieces_and_frequent_ones_come_often():
    tokens = sample_tokens(32_128)
    assert tokens.shape == (8, 64) and tokens[:, :-1].min() >= 3 and tokens.max() < 32_128
    assert (tokens[:, -1] == 1).all()
    # Under Zipf's law half of all words are of the first sqrt(V).
    assert np.mean(tokens[:, :-1] < 3 + 32_125**0.5) == pytest.approx(0.5, abs=0.07)
    np.testing.assert_array_equal(tokens, sample_tokens(32_128))
    assert set(sample_tokens(4)[:, :-1].flat) == {3}
    with pytest.raises(InputError, match="no pieces"):
        sample_tokens(3)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_norm_of_no_use_is_refused(value):
    params = jax.tree.map(lambda x: np.full_like(x, value), random_parameters(T5))
    with pytest.raises(InputError, match=r"has the norm (0.0|nan); .*INITIAL_CHECKPOINT_PATH"):
        residual_norm(T5, params)
