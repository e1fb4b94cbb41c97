"""Prompts to and from PEFT: the same logits, the same loss and the same greedy tokens."""

import copy
import functools

import jax
import numpy as np
import optax
import pytest

from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone, load_prompt
from dpt_jax.interop.peft_adapter import BaseModel
from dpt_jax.interop.prompt_exports import export_prompt
from dpt_jax.models import Transformer, decoding
from dpt_jax.prompts import VanillaPrompt
from tests.models.hugging_face import FORMS, random_batch, random_t5

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
peft = pytest.importorskip("peft", reason="PEFT is not installed (extra `interop`)")

pytestmark = pytest.mark.interop

P, D = 7, 32


@pytest.fixture(scope="module", params=FORMS)
def t5(request, tmp_path_factory):
    """A T5 of PyTorch, the folder it is saved in, and our configuration and parameters of it."""
    model = random_t5(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, folder, *load_backbone(folder)


@pytest.fixture
def prompt():
    return np.random.default_rng(5).normal(size=(P, D)).astype(np.float32)


@pytest.fixture
def adapter(tmp_path, t5, prompt):
    _, folder, config, _ = t5
    base = BaseModel(str(folder), config.num_encoder_layers, config.num_heads)
    export_prompt(tmp_path / "adapter", prompt, format="peft", base=base)
    return tmp_path / "adapter"


def ours(config, params, prompt):
    return Transformer(config, VanillaPrompt(*prompt.shape)), params | {
        "prompt": {"prompt": prompt}
    }


@functools.partial(jax.jit, static_argnums=0)
def logits_of(network, params, source, decoder_input, target):
    return network.apply({"params": params}, source, decoder_input, target, enable_dropout=False)


def tensors(source, target=None):
    source = torch.from_numpy(source).long()
    given = {"input_ids": source, "attention_mask": (source > 0).long()}
    if target is not None:
        target = torch.from_numpy(target).long()
        given["labels"] = torch.where(target > 0, target, -100)
    return given


@pytest.mark.slow
def test_an_exported_prompt_gives_our_logits_in_pytorch(t5, adapter, prompt):
    model, _, config, params = t5
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(model), adapter).eval()
    source, decoder_input, target = random_batch(30, 9)
    with torch.no_grad():
        theirs = wrapped(
            **tensors(source), decoder_input_ids=torch.from_numpy(decoder_input).long()
        ).logits.numpy()
    network, params = ours(config, params, prompt)
    found = logits_of(network, params, source, decoder_input, target)
    real = target > 0
    np.testing.assert_allclose(np.asarray(found)[real], theirs[real], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_an_exported_prompt_gives_our_greedy_tokens_in_pytorch(t5, adapter, prompt):
    model, _, config, params = t5
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(model), adapter).eval()
    source, _, _ = random_batch(30, 9, batch=6)
    length = 12
    theirs = wrapped.generate(**tensors(source), max_new_tokens=length, do_sample=False).numpy()
    network, params = ours(config, params, prompt)
    generate = jax.jit(functools.partial(decoding.greedy_decode, network, max_decode_length=length))
    found = np.asarray(generate(params, source))
    # Theirs begin with the start token, and end where the longest row does.
    theirs = np.pad(theirs[:, 1:], ((0, 0), (0, length + 1 - theirs.shape[1])))
    np.testing.assert_array_equal(found, theirs)
    assert len({tuple(row) for row in found}) > 1


def test_the_readme_loads_the_adapter(t5, adapter, prompt, monkeypatch):
    code = (adapter / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 5
    monkeypatch.chdir(adapter.parent)
    variables = {}
    # The other lines tokenize and generate; a random T5 has no tokenizer.
    exec("\n".join(code.splitlines()[:3]), variables)
    weight = variables["model"].prompt_encoder["default"].embedding.weight
    np.testing.assert_array_equal(weight.detach().numpy(), prompt)


def train_with_peft(model, folder, submodules, save_pickle=False, encoder=None):
    """Trains a prompt with PEFT for a few steps and saves it; the loss it then has.

    `encoder` is what makes the prompt in P-tuning, "MLP" or "LSTM"; None is prompt tuning.
    """
    method = peft.PromptTuningConfig if encoder is None else peft.PromptEncoderConfig
    settings = (
        {"prompt_tuning_init": "RANDOM"}
        if encoder is None
        else {"encoder_reparameterization_type": encoder, "encoder_hidden_size": 24}
    )
    wrapped = peft.get_peft_model(
        # A copy: PEFT freezes the model that it wraps.
        copy.deepcopy(model),
        method(
            task_type="SEQ_2_SEQ_LM",
            num_virtual_tokens=P,
            num_transformer_submodules=submodules,
            **settings,
        ),
    )
    source, _, target = random_batch(30, 9)
    optimizer = torch.optim.AdamW(wrapped.prompt_encoder.parameters(), lr=0.3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = wrapped(**tensors(source, target)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    wrapped.save_pretrained(folder, safe_serialization=not save_pickle)
    with torch.no_grad():
        last = wrapped(**tensors(source, target)).loss.item()
    assert last < losses[0] - 0.01  # It has learned something, all of it in the prompt.
    return last


@pytest.mark.slow
@pytest.mark.parametrize(("submodules", "save_pickle"), [(1, False), (None, False), (None, True)])
def test_a_prompt_trained_with_peft_gives_the_same_loss_here(t5, tmp_path, submodules, save_pickle):
    model, _, config, params = t5
    torch.manual_seed(0)
    expected = train_with_peft(model, tmp_path / "adapter", submodules, save_pickle)
    prompt = load_prompt(tmp_path / "adapter", embed_dim=D, length=P)
    network, params = ours(config, params, prompt)
    source, decoder_input, target = random_batch(30, 9)
    logits = logits_of(network, params, source, decoder_input, target)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    np.testing.assert_allclose(losses[target > 0].mean(), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("submodules", "encoder"), [(1, "MLP"), (None, "LSTM")])
def test_a_p_tuning_adapter_is_the_table_that_peft_puts_in_front(tmp_path, submodules, encoder):
    model = random_t5("t5_1_1")
    torch.manual_seed(0)
    loss = train_with_peft(model, tmp_path, submodules, encoder=encoder)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path)
    table = loaded.get_prompt(1)[0, :P].detach().numpy()
    np.testing.assert_array_equal(load_prompt(tmp_path, embed_dim=D, length=P), table)
    # It is what was trained, and not what the network starts from.
    source, _, target = random_batch(30, 9)
    with torch.no_grad():
        assert loaded(**tensors(source, target)).loss.item() == pytest.approx(loss, rel=1e-5)


def test_pefts_own_lora_adapter_is_refused_by_its_type(tmp_path):
    model = peft.get_peft_model(
        random_t5("t5_1_1"), peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q"])
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="adapter of type LORA"):
        load_prompt(tmp_path)


def test_the_configuration_has_all_that_pefts_own_has(adapter, t5, tmp_path):
    import json

    train_with_peft(t5[0], tmp_path / "theirs", 1)
    theirs, ours = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (tmp_path / "theirs", adapter)
    )
    # The version of PEFT that wrote it: none did.
    assert set(theirs) - set(ours) <= {"peft_version"}
    for name in set(theirs) & set(ours) - {"base_model_name_or_path"}:
        assert ours[name] == theirs[name], name
