"""dpt inspect: what a path holds, in words, numbers and JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dpt_jax import demo, interop
from dpt_jax.cli.main import main
from dpt_jax.interop import load_prompt, save_prompt
from dpt_jax.models.residual_norm import residual_norm
from tests.support import runs

LESTER = Path(__file__).parents[3] / "shared" / "data" / "lester_prompts"


@pytest.fixture
def inspect(capsys):
    def call(path, *flags):
        capsys.readouterr()
        assert main(["inspect", str(path), *flags]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def report(inspect):
    return lambda path: json.loads(inspect(path, "--json"))


@pytest.fixture
def prompt():
    return np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)


def refused(capsys, path, *flags):
    capsys.readouterr()
    assert main(["inspect", str(path), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def test_settings_are_refused(capsys, tmp_path, prompt):
    np.save(tmp_path / "p.npy", prompt)
    error = refused(capsys, tmp_path / "p.npy", "--gin.FOO=1")
    assert "dpt inspect takes no gin bindings, but got 'FOO = 1'" in error


def test_a_prompts_spectrum_is_that_of_numpy(report, tmp_path, prompt):
    np.save(tmp_path / "p.npy", prompt)
    found = report(tmp_path / "p.npy")
    assert found["kind"] == "prompt" and ".npy" in found["summary"]
    assert found["parameters"] == [
        {"name": "prompt", "shape": [6, 16], "dtype": "float32", "numbers": 96, "bytes": 384}
    ]
    assert found["total"] == {"numbers": 96, "bytes": 384}
    values = np.linalg.svd(prompt.astype(np.float64), compute_uv=False)
    shares = values / values.sum()
    energy = np.cumsum(values**2) / np.sum(values**2)
    spectrum = found["prompt"]["spectrum"]
    assert (found["prompt"]["length"], found["prompt"]["width"]) == (6, 16)
    np.testing.assert_allclose(spectrum["singular_values"], values, rtol=1e-6)
    assert spectrum["effective_rank"] == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
    assert spectrum["numerical_rank"] == np.linalg.matrix_rank(prompt)
    assert spectrum["rank_for_90_percent_energy"] == np.argmax(energy >= 0.9) + 1
    assert spectrum["rank_for_99_percent_energy"] == np.argmax(energy >= 0.99) + 1


def test_the_text_says_the_same_as_the_json(inspect, report, tmp_path, prompt):
    np.save(tmp_path / "p.npy", prompt)
    text, spectrum = inspect(tmp_path / "p.npy"), report(tmp_path / "p.npy")["prompt"]["spectrum"]
    lines = {
        line[:24].strip(): line[24:].split()[0] for line in text.splitlines() if "rank" in line
    }
    assert lines["effective rank"] == f"{spectrum['effective_rank']:.2f}"
    assert lines["numerical rank"] == str(spectrum["numerical_rank"])
    assert lines["rank for 90% energy"] == str(spectrum["rank_for_90_percent_energy"])
    for value in spectrum["singular_values"]:
        assert f"{value:.4g}" in text
    assert "Total: 96 numbers, 384 bytes" in text


def test_factors_are_shown_with_the_spectrum_of_their_product(report, tmp_path):
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "f.npz", A=rng.normal(size=(9, 2)), B=rng.normal(size=(2, 16)))
    found = report(tmp_path / "f.npz")
    assert {row["name"]: row["shape"] for row in found["parameters"]} == {
        "A": [9, 2],
        "B": [2, 16],
    }
    assert {row["dtype"] for row in found["parameters"]} == {"float64"}
    assert found["prompt"]["spectrum"]["numerical_rank"] == 2


def test_rounding_is_not_listed_as_singular_values(inspect, tmp_path):
    rng = np.random.default_rng(1)
    product = rng.normal(size=(9, 2)).astype(np.float32) @ rng.normal(size=(2, 16))
    np.save(tmp_path / "p.npy", product.astype(np.float32))
    text = inspect(tmp_path / "p.npy")
    assert "and 7 below the tolerance" in text and "e-0" not in text.split("largest first:")[-1]


def test_factors_that_only_their_method_can_fold_have_no_spectrum(report, tmp_path, prompt):
    np.savez(tmp_path / "f.npz", U=prompt, sigma=prompt[0], V=prompt)
    found = report(tmp_path / "f.npz")
    assert "prompt" not in found and "their own method" in found["details"]["note"]


def test_a_numpy_checkpoint_and_a_safetensors_file_are_named(report, tmp_path, prompt):
    factors = {"A": prompt[:, :2], "B": prompt[:2]}
    save_prompt(tmp_path / "checkpoint_5", prompt, factors)
    assert "numpy checkpoint" in report(tmp_path / "checkpoint_5")["summary"]
    assert len(report(tmp_path / "checkpoint_5")["parameters"]) == 3
    save_file({"prompt": prompt}, tmp_path / "p.safetensors")
    assert "safetensors" in report(tmp_path / "p.safetensors")["summary"]


def test_adapters_are_named_by_their_type(report, tmp_path, prompt):
    table = "prompt_embeddings"
    for kind, name in (("PROMPT_TUNING", table), ("P_TUNING", table), ("LORA", "q.lora_A.weight")):
        folder = tmp_path / kind
        folder.mkdir()
        save_file({name: prompt}, folder / "adapter_model.safetensors")
        config = {"peft_type": kind, "num_virtual_tokens": 3, "token_dim": 16, "revision": None}
        config |= {"task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": "t5-base"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        found = report(folder)
        assert kind in found["summary"]
        assert found["details"]["base_model_name_or_path"] == "t5-base"
        assert [row["name"] for row in found["parameters"]] == [name]
        assert ("prompt" in found) == (kind != "LORA")
    # PEFT makes two blocks of rows for a T5 and uses the first.
    found = report(tmp_path / "PROMPT_TUNING")
    assert found["prompt"]["length"] == 3 and "first 3 rows" in found["details"]["note"]


@pytest.mark.slow
def test_a_backbones_layers_are_one_line_each_unless_all_are_asked_for(inspect, report):
    found = report(demo.BACKBONE_DIR)
    assert found["kind"] == "backbone"
    assert found["details"]["num_encoder_layers"] == 3
    assert found["total"] == {"numbers": 1_263_872, "bytes": 2 * 1_263_872}
    short, long = (inspect(demo.BACKBONE_DIR, "--no-norm", *all_) for all_ in ((), ("--all",)))
    assert "encoder/layers_{0-2}/attention/query/kernel" in short
    assert "encoder/layers_1/attention/query/kernel" not in short
    assert "Total: 1,263,872 numbers" in short and "Total: 1,263,872 numbers" in long
    for row in found["parameters"]:
        assert row["name"] in long
    assert len(long.splitlines()) - len(short.splitlines()) > 30
    # Nothing is cut where the output is no terminal.
    assert "…" not in short + long


@pytest.mark.slow
def test_a_t5s_residual_stream_is_measured_unless_it_is_not_asked_for(report, inspect, tmp_path):
    config, params = runs.T5, runs.random_parameters()
    interop.save_backbone(tmp_path / "t5", config, params)
    norm = residual_norm(config, params)
    assert report(tmp_path / "t5")["residual_norm"] == norm
    last = inspect(tmp_path / "t5").splitlines()[-1]
    assert last == f"Norm of the encoder's residual stream, on random tokens: {norm:g}"
    assert "residual stream" not in inspect(tmp_path / "t5", "--no-norm")
    params["token_embedder"]["embedding"][:] = np.nan
    interop.save_backbone(tmp_path / "spoiled", config, params)
    assert report(tmp_path / "spoiled")["residual_norm"] is None


def test_a_run_is_its_best_steps_prompt(report, tmp_path, prompt):
    for step in (10, 20):
        folder = tmp_path / "numpy_checkpoints" / f"checkpoint_{step}"
        save_prompt(folder, step * prompt, {"prompt": step * prompt})
    rest = {"best_value": 0.5, "metrics": {}, "last_step": 20, "train_steps": 20}
    (tmp_path / "summary.json").write_text(json.dumps({"best_step": 10, **rest}))
    identity = {"task.mixture_or_task_name": "superglue_cb", "prompt.method": "VanillaPrompt"}
    (tmp_path / "run.json").write_text(json.dumps(identity))
    found = report(tmp_path)
    assert found["kind"] == "run"
    assert found["details"]["task"] == "superglue_cb"
    assert found["details"]["steps with a saved prompt"] == [10, 20]
    assert found["details"]["shown step"] == 10
    expected = np.linalg.svd(10 * prompt.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found["prompt"]["spectrum"]["singular_values"], expected, rtol=1e-6)


@pytest.mark.parametrize("content", [None, b"hello", b""], ids=["folder", "text", "empty"])
def test_an_unknown_thing_says_what_was_looked_for(tmp_path, capsys, content):
    path = tmp_path / "thing"
    if content is None:
        path.mkdir()
        (path / "notes.txt").write_text("hello")
    else:
        path.write_bytes(content)
    error = refused(capsys, path)
    for part in (str(path), ".npy", "safetensors", "adapter_config.json", "pretrained T5"):
        assert part in error
    if content is None:
        for part in ("notes.txt", "Hugging Face", "T5X"):
            assert part in error


def test_a_missing_path_and_a_broken_backbone_are_named(tmp_path, capsys):
    assert "nowhere" in refused(capsys, tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    error = refused(capsys, tmp_path)
    assert "'bert'" in error and "INITIAL_CHECKPOINT_PATH" not in error


@pytest.mark.parametrize("name", ["sst2", "mrpc", "rte"])
def test_the_prompts_of_lester_et_al_are_shown_and_come_back_bit_for_bit(report, tmp_path, name):
    path = LESTER / f"{name}.npy"
    if not path.exists():
        pytest.skip("the prompts that Lester et al. released are not on this machine")
    found = report(path)
    assert found["parameters"][0]["shape"] == [100, 768]
    assert found["prompt"]["spectrum"]["numerical_rank"] == 100
    for output, flags in (
        ("a.npy", []),
        ("b", []),
        ("c", ["--format=peft", "--base_model=google/t5-v1_1-base"]),
        ("d.safetensors", []),
    ):
        assert main(["export", f"--prompt={path}", f"--output={tmp_path / output}", *flags]) == 0
        np.testing.assert_array_equal(load_prompt(tmp_path / output), np.load(path))
        assert report(tmp_path / output)["prompt"] == found["prompt"]
