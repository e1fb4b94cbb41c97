"""Operations of a compiled program belong to the part of the T5 that their names say."""

import sys

import pytest

from tests.benchmarks.test_benchmarks import BENCHMARKS


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("encoder/layers_0/attention/query/dot_general", "projections of attention"),
        ("encoder/layers_0/attention.project_memory/key/dot_general", "projections of attention"),
        (
            "decoder/layers_1/encoder_decoder_attention.project_memory/value/dot_general",
            "projections of attention",
        ),
        ("encoder/layers_0/attention/exp", "attention of the encoder, without its projections"),
        (
            "decoder/layers_0/encoder_decoder_attention.attend_unprojected/dot_general",
            "attention of the decoder, without its projections",
        ),
        ("encoder/layers_0/pre_attention_layer_norm/mul", "layer norms"),
        ("decoder/decoder_norm/reduce_sum", "layer norms"),
        ("encoder/layers_2/mlp/wi/dot_general", "MLP"),
        ("encoder/layers_2/add", "residual connections"),
        ("encoder/relpos_bias/gather", "position bias"),
        ("decoder/logits_dense/dot_general", "embedding, logits and loss"),
        ("optimizer/add", "other"),
    ],
)
def test_an_operation_belongs_to_its_part(name, part, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    import parts

    assert parts.part_of(f"jit(train_step)/jvp(Transformer)/Transformer.encode/{name}") == part
    assert parts.part_of(f"transpose(jvp(Transformer))/Transformer.decode/{name}") == part
