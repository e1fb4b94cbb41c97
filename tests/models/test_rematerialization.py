"""Rematerialization trades memory for time and changes nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from dpt_jax.models import T5Config, Transformer
from dpt_jax.models.config import REMAT_POLICIES
from dpt_jax.prompts import DecomposedPrompt
from tests.models.random_weights import random_parameters

CONFIG = T5Config(
    vocab_size=24,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.1,
)
SOURCE = np.arange(2, 22, dtype=np.int32).reshape(2, 10)
TARGET = np.array([[7, 12, 1], [20, 1, 0]], np.int32)


def network(policy, layers=2):
    config = dataclasses.replace(
        CONFIG, remat_policy=policy, num_encoder_layers=layers, num_decoder_layers=layers
    )
    return Transformer(config, DecomposedPrompt(length=5, embed_dim=16, bottleneck=3))


@pytest.fixture(scope="module")
def params():
    prompt = jax.jit(network("none").prompt.initialize)(jax.random.key(0))
    return {**random_parameters(CONFIG, seed=0), "prompt": prompt}


def loss_of(policy, params, layers=2):
    backbone = {name: tree for name, tree in params.items() if name != "prompt"}

    def loss(prompt):
        logits = network(policy, layers).apply(
            {"params": {**backbone, "prompt": prompt}},
            SOURCE,
            TARGET,
            TARGET,
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.sum(jax.nn.log_softmax(logits) ** 2)

    return loss


def saved_numbers(loss, prompt, capsys):
    """How many numbers the backward pass reads besides the arguments."""
    print_saved_residuals(loss, prompt)
    total = 0
    for line in capsys.readouterr().out.splitlines():
        if "from the argument" not in line and "from a constant" not in line:
            shape = line.split("[", 1)[1].split("]", 1)[0]
            total += int(np.prod([int(n) for n in shape.split(",") if n], initial=1))
    return total


@pytest.mark.slow
def test_every_policy_gives_the_same_gradient_with_dropout(params):
    def gradient(policy):
        # Every layer is wrapped by itself: one shows what two would.
        return jax.jit(jax.grad(loss_of(policy, params, layers=1)))(params["prompt"])

    expected = gradient("none")
    for policy in REMAT_POLICIES[1:]:
        found = gradient(policy)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
        )


@pytest.mark.slow
def test_every_policy_declares_the_same_parameters():
    def names(policy):
        shapes = jax.eval_shape(
            lambda: network(policy).init(
                jax.random.key(0), SOURCE, TARGET, TARGET, enable_dropout=False
            )
        )
        return jax.tree_util.tree_structure(shapes)

    assert names("none") == names("minimal") == names("full")


@pytest.mark.slow
def test_each_policy_keeps_less_than_the_one_before(params, capsys):
    kept = [saved_numbers(loss_of(p, params), params["prompt"], capsys) for p in REMAT_POLICIES]
    none, minimal, full = kept
    # The attention scores alone: 2 rows, 2 heads, 15 x 15 positions, 2 encoder layers.
    assert minimal <= none - 2 * 2 * 2 * 15 * 15
    assert full < minimal / 2


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(ValueError, match="remat_policy is 'some'.*none, minimal, full.*REMAT_POL"):
        dataclasses.replace(CONFIG, remat_policy="some")
