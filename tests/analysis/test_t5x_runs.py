"""Folders of t5x.train in tables and commands, from the files that T5X writes."""

import json

import numpy as np
import pytest

from dpt_jax.analysis.results import read_run
from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.interop import save_prompt

STEPS = (0, 100, 200, 300)


@pytest.fixture
def folder(tmp_path):
    """What a run of 300 steps leaves that was killed once, as the test of T5X itself sees it."""
    run = tmp_path / "b4_s0"
    (run / "inference_eval").mkdir(parents=True)
    (run / "model-info.txt").write_text("Variable token_embedder/embedding  size 1\n")
    (run / "config.gin").write_text("import __main__ as train_script\nTRAIN_STEPS = 300\n")
    rng = np.random.default_rng(0)
    for step in STEPS:
        factors = {"A": rng.normal(size=(6, 2)), "B": rng.normal(size=(2, 16))}
        saved = run / "numpy_checkpoints" / f"checkpoint_{step}"
        save_prompt(saved, factors["A"] @ factors["B"], factors)
    evaluations = {
        "boolq": [(100, 10.0), (200, 10.0), (200, 50.0), (300, 30.0)],
        "cb": [(100, 20.0), (200, 70.0), (300, 40.0)],
    }
    for task, lines in evaluations.items():
        (run / "inference_eval" / f"{task}-metrics.jsonl").write_text(
            "".join(
                json.dumps({"step": step, "text": "words", "accuracy": value, "f1": 1.0}) + "\n"
                for step, value in lines
            )
        )
    return run


def test_a_prefix_counts_among_what_was_trained(folder):
    for step in STEPS:
        saved = folder / "numpy_checkpoints" / f"checkpoint_{step}"
        np.savez(saved / "prefix_params.npz", encoder_rows=np.zeros((2, 3, 16)))
        np.savez(saved / "prefix.npz", encoder_keys=np.zeros((2, 3, 2, 8)))
    assert read_run(folder)["trainable_parameters"] == 6 * 2 + 2 * 16 + 2 * 3 * 16


def test_a_run_is_read_as_one_of_dpt_train(folder):
    row = read_run(folder)
    assert (row["status"], row["best_step"], row["value"]) == ("done", 200, 60.0)
    assert row["metrics"]["boolq"] == {"accuracy": 50.0, "f1": 1.0}
    assert row["trainable_parameters"] == 6 * 2 + 2 * 16
    assert row["curves"]["score"] == [[100, 200, 300], [15.0, 60.0, 35.0]]
    best = np.load(folder / "numpy_checkpoints" / "checkpoint_200" / "prompt.npy")
    np.testing.assert_allclose(
        row["singular_values"], np.linalg.svd(best, compute_uv=False), rtol=1e-5, atol=1e-6
    )
    assert read_run(folder, "f1")["value"] == 1.0


def test_a_run_that_has_not_come_to_its_end_is_unfinished(folder):
    (folder / "config.gin").write_text("TRAIN_STEPS = 400\n")
    assert read_run(folder)["status"] == "unfinished"
    for file in (folder / "inference_eval").iterdir():
        file.unlink()
    assert read_run(folder) == {"status": "unfinished", "value": None}


def test_a_damaged_line_is_named(folder):
    file = folder / "inference_eval" / "cb-metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 400, "acc')
    with pytest.raises(InputError, match="cb-metrics.jsonl, line 4 is no evaluation"):
        read_run(folder)


@pytest.mark.slow
def test_commands_take_the_folder(folder, tmp_path, capsys):
    page = tmp_path / "page.md"
    assert main(["report", str(folder), f"--output={page}"]) == 0
    assert "60.00" in page.read_text() and "1 of 1 points.\n" in page.read_text()
    capsys.readouterr()
    assert main(["rank", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["numerical_rank"] == 2
    assert main(["export", f"--model_dir={folder}", f"--output={tmp_path / 'p.npy'}"]) == 0
    best = folder / "numpy_checkpoints" / "checkpoint_200" / "prompt.npy"
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), np.load(best))
    capsys.readouterr()
    assert main(["evaluate", f"--model_dir={folder}"]) == 2
    assert "is a folder of t5x.train" in capsys.readouterr().err
