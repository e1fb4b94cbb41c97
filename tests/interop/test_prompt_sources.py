"""Prompts in whatever they are kept in, told apart by what is in them."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dpt_jax.errors import InputError
from dpt_jax.interop import load_factors, load_prompt, save_factors, save_prompt

LESTER = Path(__file__).parents[3] / "shared" / "data" / "lester_prompts"
P, D = 6, 16


@pytest.fixture
def prompt():
    return np.random.default_rng(0).normal(size=(P, D)).astype(np.float32)


def write_adapter(folder, array, **changes):
    """An adapter folder as PEFT 0.21 writes it; its tests are in test_peft_adapters."""
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM",
        "num_virtual_tokens": P,
        "token_dim": D,
        "num_transformer_submodules": 1,
    }
    folder.mkdir(exist_ok=True)
    save_file({"prompt_embeddings": array}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return folder


def test_a_t5x_numpy_checkpoint_has_no_suffix(tmp_path, prompt):
    folder = tmp_path / "checkpoint_1000"
    folder.mkdir()
    with open(folder / "encoder.prompt.prompt.prompt", "wb") as file:
        np.save(file, prompt)
    np.testing.assert_array_equal(load_prompt(folder), prompt)
    np.testing.assert_array_equal(load_prompt(folder / "encoder.prompt.prompt.prompt"), prompt)


def test_a_folder_of_several_arrays_is_not_chosen_from(tmp_path, prompt):
    for name in ("one.npy", "two.npy"):
        np.save(tmp_path / name, prompt)
    with pytest.raises(InputError, match=r"several numpy arrays.*--prompt.*one\.npy.*two\.npy"):
        load_prompt(tmp_path)


def test_a_numpy_file_among_other_things_is_not_taken_for_a_checkpoint(tmp_path, prompt):
    np.save(tmp_path / "one.npy", prompt)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"no prompt; it holds notes\.txt, one\.npy"):
        load_prompt(tmp_path)


def test_the_content_decides_and_not_the_name(tmp_path, prompt):
    save_file({"prompt": prompt}, tmp_path / "prompt.npy.old")
    np.testing.assert_array_equal(load_prompt(tmp_path / "prompt.npy.old"), prompt)
    with open(tmp_path / "factors.bin", "wb") as file:
        np.savez(file, A=np.ones((P, 2)), B=np.ones((2, D)))
    np.testing.assert_array_equal(load_prompt(tmp_path / "factors.bin"), np.full((P, D), 2.0))


@pytest.mark.parametrize("begins", [b"\x80", b"PK"], ids=["as a pickle", "as a zip archive"])
def test_a_safetensors_file_is_known_whatever_the_length_of_its_header(tmp_path, prompt, begins):
    header = {"prompt": {"dtype": "F32", "shape": [P, D], "data_offsets": [0, prompt.nbytes]}}
    encoded = json.dumps(header).encode().ljust(int.from_bytes(begins, "little"))
    path = tmp_path / "prompt"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + prompt.tobytes())
    assert path.read_bytes().startswith(begins)
    np.testing.assert_array_equal(load_prompt(path), prompt)


def test_bfloat16_widens_exactly(tmp_path, prompt):
    import jax.numpy as jnp

    narrow = prompt.astype(jnp.bfloat16)
    np.save(tmp_path / "prompt.npy", narrow)
    save_file({"prompt": narrow}, tmp_path / "prompt.safetensors")
    for name in ("prompt.npy", "prompt.safetensors"):
        found = load_prompt(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, narrow.astype(np.float32))


def test_a_run_stands_for_its_best_step(tmp_path, prompt):
    for step in (10, 20, 30):
        save_prompt(tmp_path / "numpy_checkpoints" / f"checkpoint_{step}", step * prompt)
    rest = {"best_value": 0.5, "metrics": {}, "last_step": 30, "train_steps": 30}
    (tmp_path / "summary.json").write_text(json.dumps({"best_step": 20, **rest}))
    for folder in (tmp_path, tmp_path / "numpy_checkpoints"):
        np.testing.assert_array_equal(load_prompt(folder), 20 * prompt)


def test_the_factors_of_a_safetensors_file_are_kept(tmp_path, prompt):
    tensors = {"prompt": prompt, "factors/A": np.ones((P, 2)), "factors/B": np.ones((2, D))}
    save_file(tensors, tmp_path / "prompt.safetensors")
    assert load_factors(tmp_path).keys() == {"A", "B"}


def test_a_folded_prompt_has_no_factors_to_continue_from(tmp_path, prompt):
    save_prompt(tmp_path / "prompt.npy", prompt)
    with pytest.raises(InputError, match=r"prompt\.npy holds a folded prompt.*PROMPT_FILE"):
        load_factors(tmp_path / "prompt.npy", flag="PROMPT_FILE")


@pytest.mark.parametrize(
    "content", [b"", b"a text\n", b"\x00" * 64], ids=["empty", "text", "zeros"]
)
def test_an_unknown_file_says_what_was_looked_for(tmp_path, content):
    path = tmp_path / "thing.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"thing\.npy is no prompt.*\.npz.*safetensors.*--prompt"):
        load_prompt(path)


def test_an_unknown_folder_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"holds notes\.txt.*adapter_config\.json.*--prompt"):
        load_prompt(tmp_path)


def test_a_truncated_safetensors_file_names_the_flag(tmp_path, prompt):
    path = tmp_path / "prompt.safetensors"
    save_file({"prompt": prompt}, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError) as error:
        load_prompt(path, flag="--prompt cb=PATH")
    assert "prompt.safetensors" in str(error.value) and "--prompt cb=PATH" in str(error.value)
    assert "INITIAL_CHECKPOINT_PATH" not in str(error.value)


def test_an_adapter_of_one_submodule_is_its_rows(tmp_path, prompt):
    folder = write_adapter(tmp_path / "adapter", prompt)
    np.testing.assert_array_equal(load_prompt(folder), prompt)
    np.testing.assert_array_equal(load_prompt(folder / "adapter_model.safetensors"), prompt)


def test_of_two_submodules_the_first_is_the_encoders(tmp_path, prompt):
    both = np.concatenate([prompt, 7 * prompt])
    folder = write_adapter(tmp_path / "adapter", both, num_transformer_submodules=2)
    np.testing.assert_array_equal(load_prompt(folder), prompt)
    # PEFT takes 2 for a sequence-to-sequence model whose configuration does not say.
    folder = write_adapter(tmp_path / "adapter", both, num_transformer_submodules=None)
    np.testing.assert_array_equal(load_prompt(folder), prompt)


@pytest.mark.parametrize("kind", ["LORA", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", None])
def test_an_adapter_of_another_type_is_named(tmp_path, prompt, kind):
    folder = write_adapter(tmp_path / "adapter", prompt, peft_type=kind)
    with pytest.raises(
        InputError, match=rf"adapter of type {kind}; only.*PROMPT_TUNING and P_TUNING.*--prompt"
    ):
        load_prompt(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_virtual_tokens": 5}, r"\(6, 16\).*num_virtual_tokens 5.*\(5, 16\)"),
        ({"num_transformer_submodules": 2}, r"\(6, 16\).*\(12, 16\)"),
        ({"token_dim": 8}, r"\(6, 16\).*token_dim 8"),
        ({"task_type": "CAUSAL_LM"}, "task_type CAUSAL_LM.*SEQ_2_SEQ_LM"),
    ],
    ids=["length", "submodules", "width", "task"],
)
def test_an_adapter_that_does_not_fit_its_configuration_is_refused(
    tmp_path, prompt, changes, message
):
    with pytest.raises(InputError, match=message):
        load_prompt(write_adapter(tmp_path / "adapter", prompt, **changes))


def test_an_adapter_without_weights_or_with_more_than_a_prompt_is_refused(tmp_path, prompt):
    folder = write_adapter(tmp_path / "adapter", prompt)
    more = {"prompt_embeddings": prompt, "base_model.lm_head.weight": prompt}
    save_file(more, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"lm_head.*more than a prompt"):
        load_prompt(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither adapter_model\.safetensors nor"):
        load_prompt(folder)


def test_weights_of_an_adapter_without_its_configuration_are_refused(tmp_path, prompt):
    save_file({"prompt_embeddings": prompt}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"prompt_embeddings.*adapter_config\.json"):
        load_prompt(tmp_path / "adapter_model.safetensors")


def test_factors_that_have_no_product_are_refused(tmp_path):
    save_factors(tmp_path / "f.npz", {"A": np.ones((P, 2)), "B": np.ones((3, D))})
    with pytest.raises(InputError, match=r"A \(6, 2\) and B \(3, 16\)"):
        load_prompt(tmp_path / "f.npz")
