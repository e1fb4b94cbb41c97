"""Our network against Hugging Face's T5 in PyTorch, with weights copied over."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpt_jax.evaluation.t5_attention import attention_weights
from dpt_jax.interop import load_backbone
from dpt_jax.models import Transformer
from dpt_jax.models.layers import relative_position_bucket
from dpt_jax.prompts import VanillaPrompt
from tests.models.hugging_face import FORMS, random_batch, random_t5

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
pytest.importorskip("transformers", reason="Transformers is not installed (extra `interop`)")

pytestmark = pytest.mark.interop

PROMPT_LENGTH = 7
# Source and target lengths. Position buckets end at a distance of 128. A target shorter than a
# head is wide goes through the cross-attention that forms no keys and values.
LENGTHS = {"one token": (1, 3), "long source": (150, 4), "long target": (20, 140)}


@pytest.fixture(scope="module", params=FORMS)
def pair(request, tmp_path_factory):
    """The PyTorch model, and our configuration and parameters from its saved folder."""
    model = random_t5(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, *load_backbone(folder)


@pytest.fixture(scope="module")
def prompt():
    return np.random.default_rng(5).normal(size=(PROMPT_LENGTH, 32)).astype(np.float32)


def torch_logits(model, prompt, source, decoder_input, target):
    return torch_output(model, prompt, source, decoder_input).logits


def torch_output(model, prompt, source, decoder_input, **asked):
    """What PyTorch gives, the prompt (if any) in front of the embedded source."""
    source = torch.from_numpy(source).long()
    embedded = model.shared(source)
    mask = (source > 0).long()
    if prompt is not None:
        rows = source.shape[0]
        embedded = torch.cat([prompt.expand(rows, -1, -1), embedded], dim=1)
        mask = torch.cat([torch.ones(rows, prompt.shape[0], dtype=torch.long), mask], dim=1)
    return model(
        inputs_embeds=embedded,
        attention_mask=mask,
        decoder_input_ids=torch.from_numpy(decoder_input).long(),
        **asked,
    )


def our_network(config, params, prompt):
    if prompt is None:
        return Transformer(config), params
    network = Transformer(config, VanillaPrompt(*prompt.shape))
    return network, {**params, "prompt": {"prompt": prompt}}


def our_logits(config, params, prompt, batch):
    network, params = our_network(config, params, prompt)
    apply = jax.jit(lambda p, *b: network.apply({"params": p}, *b, enable_dropout=False))
    return np.asarray(apply(params, *batch))


@pytest.mark.slow
@pytest.mark.parametrize("prompted", [False, True], ids=["plain", "prompted"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_logits_equal_pytorch_at_every_real_position(pair, prompt, lengths, prompted):
    model, config, params = pair
    batch = random_batch(*lengths)
    with torch.no_grad():
        theirs = torch_logits(model, torch.from_numpy(prompt) if prompted else None, *batch).numpy()
    ours = our_logits(config, params, prompt if prompted else None, batch)
    real = batch[2] > 0
    assert np.std(theirs[real]) > 0.3
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_attention_weights_equal_pytorchs(pair, prompt):
    """Of each stack, with a prompt and padding; targets go through the form without keys."""
    model, config, params = pair
    source, decoder_input, target = random_batch(9, 4)
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = torch_output(
            model, torch.from_numpy(prompt), source, decoder_input, output_attentions=True
        )
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    network, params = our_network(config, params, prompt)
    batch = dict(zip(names, (source, decoder_input, target), strict=True))
    ours = attention_weights(network, params, batch)
    real = np.pad(source > 0, ((0, 0), (PROMPT_LENGTH, 0)), constant_values=True)
    for stack, name, asks in (
        ("encoder", "encoder_attentions", real),
        ("cross", "cross_attentions", target > 0),
        ("decoder", "decoder_attentions", target > 0),
    ):
        expected = torch.stack(getattr(theirs, name)).numpy()
        found = np.asarray(ours[stack])
        # There is no prefix.
        np.testing.assert_array_equal(found[..., 0], 0)
        assert np.std(expected) > 0.01
        for row, asking in enumerate(asks):
            np.testing.assert_allclose(
                found[:, row, :, asking, 1:], expected[:, row, :, asking], atol=1e-5
            )


@pytest.mark.slow
@pytest.mark.parametrize("target_length", [4, 12])
def test_the_prompts_gradient_equals_pytorch(pair, prompt, target_length):
    model, config, params = pair
    batch = random_batch(30, target_length)
    target = batch[2]

    theirs = torch.from_numpy(prompt.copy()).requires_grad_()
    their_loss = torch.nn.functional.cross_entropy(
        torch_logits(model, theirs, *batch).flatten(0, 1),
        torch.from_numpy(target).long().flatten(),
        ignore_index=0,
    )
    their_loss.backward()

    loss, ours = jax.jit(jax.value_and_grad(lambda p: our_loss(config, params, p, batch)))(prompt)
    np.testing.assert_allclose(loss, their_loss.item(), rtol=1e-5)
    scale = np.abs(theirs.grad.numpy()).max()
    assert scale > 1e-4
    np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-4 * scale, rtol=1e-3)


def our_loss(config, params, prompt, batch):
    network, params = our_network(config, params, prompt)
    logits = network.apply({"params": params}, *batch, enable_dropout=False)
    real = batch[2] > 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[2])
    return jnp.sum(losses * real) / real.sum()


@pytest.mark.slow
def test_the_loss_equals_that_of_pefts_prompt_tuning(pair, prompt):
    peft = pytest.importorskip("peft", reason="PEFT is not installed (extra `interop`)")
    model, config, params = pair
    source, _, target = batch = random_batch(30, 9)
    tuned = peft.get_peft_model(
        # A copy: PEFT freezes the model that it wraps.
        copy.deepcopy(model),
        peft.PromptTuningConfig(
            task_type="SEQ_2_SEQ_LM",
            num_virtual_tokens=PROMPT_LENGTH,
            # One: the encoder. PEFT's default prompts the decoder as well.
            num_transformer_submodules=1,
        ),
    ).eval()
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.copy_(torch.from_numpy(prompt))
        tokens = torch.from_numpy(source).long()
        labels = torch.from_numpy(np.where(target > 0, target, -100)).long()
        theirs = tuned(input_ids=tokens, attention_mask=(tokens > 0).long(), labels=labels).loss
    ours = jax.jit(lambda p: our_loss(config, params, p, batch))(prompt)
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False], ids=["encoder", "decoder"])
def test_relative_position_buckets_equal_transformers(bidirectional):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-600, 601)
    theirs = T5Attention._relative_position_bucket(
        torch.from_numpy(distances), bidirectional=bidirectional, num_buckets=32, max_distance=128
    )
    ours = relative_position_bucket(distances, bidirectional=bidirectional)
    np.testing.assert_array_equal(ours, theirs.numpy())
    # Every bucket is compared, save the encoder's for "distance 0, to the right".
    assert set(range(32)) - set(ours) == ({16} if bidirectional else set())
