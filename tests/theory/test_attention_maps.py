"""What is read off a head of attention, against the encoder's own network and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.cli import theory_bridge
from dpt_jax.cli.main import main
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prompts import VanillaPrompt
from dpt_jax.theory import attention_maps

CONFIG = T5Config(
    vocab_size=11,
    emb_dim=8,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=3,
    mlp_dim=8,
    mlp_activations=("linear",),
    dropout_rate=0.0,
)


@pytest.mark.slow
def test_the_attention_is_the_one_that_the_encoder_computes_with():
    model = Transformer(CONFIG, VanillaPrompt(2, 8))
    tokens = np.asarray([[3, 4, 5, 1], [6, 7, 1, 0]])
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens, tokens)["params"]
    [normed], bias = theory_bridge._encoder_inputs(model, params, tokens)
    kernels = {
        name: part["kernel"] for name, part in params["encoder"]["layers_0"]["attention"].items()
    }
    valid = np.pad(tokens > 0, ((0, 0), (2, 0)), constant_values=True)
    weights = attention_maps.attention(normed, kernels["query"], kernels["key"], bias, valid)
    values = (normed @ kernels["value"]).reshape(2, 6, 2, 3)
    expected = np.einsum("bhqt,bthk->bqhk", weights, values).reshape(2, 6, 6) @ kernels["out"]
    apply = functools.partial(
        model.apply,
        enable_dropout=False,
        method="encode",
        capture_intermediates=lambda module, _: module.name == "attention",
    )
    kept = jax.jit(apply)({"params": params}, tokens)[1]["intermediates"]["encoder"]["layers_0"]
    found = kept["attention"]["__call__"][0]
    # Queries of padding are masked in the network, and do not matter.
    np.testing.assert_allclose(expected[0], found[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(expected[1, :5], found[1, :5], rtol=1e-4, atol=1e-5)


def test_relevance_is_1_without_selection():
    valid = np.asarray([[1, 1, 1, 1, 0]], bool)
    relevant = np.asarray([[0, 1, 0, 0, 0]], bool)
    weights = np.zeros((1, 2, 6, 6))
    weights[0, 0, 0] = [0.2, 0.2, 0.2, 0.2, 0.2, 0]
    weights[0, 1, 0] = [0.5, 0.1, 0.3, 0.1, 0.0, 0]
    found = attention_maps.relevance(jnp.asarray(weights), 1, relevant, valid)
    # A quarter of the tokens has 0.3 of 0.5 in the second head.
    np.testing.assert_allclose(found, [1, 2.4], rtol=1e-5)


def test_a_query_direction_scores_tokens_as_the_head_does():
    rng = np.random.default_rng(0)
    prompt, x = rng.normal(size=(2, 4)), rng.normal(size=4)
    query, key = rng.normal(size=(2, 4, 6))
    q = attention_maps.query_directions(*map(jnp.asarray, (prompt, query, key)), heads=2)
    for head in range(2):
        own = slice(3 * head, 3 * head + 3)
        np.testing.assert_allclose(
            q[head] @ x, (prompt @ query[:, own]) @ (x @ key[:, own]), rtol=1e-4
        )
    along = attention_maps.cosines(q, q[1, 0])
    assert np.isclose(along[1, 0], 1, atol=1e-5) and float(jnp.abs(along).max()) < 1 + 1e-5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "has a prefix beside its prompt; name a run with a prompt alone"),
        (["PROMPT = None"], "has no prompt; name a run with one"),
    ],
)
def test_only_runs_of_a_prompt_alone_are_measured(more, message, tmp_path, capsys):
    files = ("runs/demo.gin", "prompts/decomposed.gin", "prefixes/free.gin")
    lines = [*(f"include {file!r}" for file in files), *more]
    lines += [f"MODEL_DIR = {str(tmp_path)!r}", "MIXTURE_OR_TASK_NAME = 'demo_wordsense'"]
    (tmp_path / "config.gin").write_text("\n".join(lines))
    output = tmp_path / "theory"
    assert main(["theory", "bridge", f"--model_dir={tmp_path}", f"--output={output}"]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
