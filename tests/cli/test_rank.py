"""dpt rank: a prompt's spectrum, its score when cut to a rank, and the probe."""

import json

import numpy as np
import pytest

from dpt_jax import interop
from dpt_jax.cli.main import main
from tests.support import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a decomposed prompt with a bottleneck of 2."""
    folder = tmp_path_factory.mktemp("rank")
    backbone = runs.save_backbone(folder)
    argv = runs.arguments(folder / "run", backbone, TRAIN_STEPS=6, EVAL_PERIOD=3, NUM_BUCKETS=1)
    assert main(argv) == 0
    return folder / "run"


def measured(capfd, *arguments):
    capfd.readouterr()
    assert main(["rank", *map(str, arguments), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def evaluated(capfd, *arguments):
    capfd.readouterr()
    assert main(["evaluate", *map(str, arguments)]) == 0
    return json.loads(capfd.readouterr().out)["metrics"]


@pytest.mark.slow
def test_a_run_is_scored_on_its_own_task_uncut_and_cut(run, capfd, tmp_path):
    found = measured(capfd, run)
    best = json.loads((run / "summary.json").read_text())["best_step"]
    prompt = runs.prompt(run, best)
    assert (found["length"], found["width"]) == prompt.shape
    assert found["numerical_rank"] == np.linalg.matrix_rank(prompt) == runs.BOTTLENECK
    assert found["metrics"] == evaluated(capfd, f"--model_dir={run}")
    assert [row["rank"] for row in found["truncated"]] == [1, 2]
    # At its own rank nothing is missed; at rank 1 the score is that of numpy's approximation.
    assert found["truncated"][1]["metrics"] == found["metrics"]
    u, s, vt = np.linalg.svd(prompt.astype(np.float64), full_matrices=False)
    np.save(tmp_path / "one.npy", (s[0] * np.outer(u[:, 0], vt[0])).astype(np.float32))
    cut = evaluated(capfd, f"--model_dir={run}", f"--prompt={tmp_path / 'one.npy'}")
    assert found["truncated"][0]["metrics"] == cut
    assert found["truncated"][0]["error"] == pytest.approx(s[1] / np.hypot(*s[:2]), rel=1e-5)


def test_any_prompt_has_its_numbers_without_a_model(capfd, tmp_path):
    prompt = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    interop.save_prompt(tmp_path / "p.npy", prompt)
    found = measured(capfd, tmp_path / "p.npy", "--ranks=3,1")
    assert "metrics" not in found
    values = np.linalg.svd(prompt, compute_uv=False)
    np.testing.assert_allclose(found["singular_values"], values, rtol=1e-5)
    np.testing.assert_allclose(
        found["energy_curve"], np.cumsum(values**2) / np.sum(values**2), rtol=1e-5
    )
    assert [row["rank"] for row in found["truncated"]] == [1, 3]


@pytest.mark.slow
def test_a_table_and_figures_are_written(run, capfd, tmp_path):
    capfd.readouterr()
    assert main(["rank", str(run), f"--output={tmp_path / 'rank'}"]) == 0
    out = capfd.readouterr().out
    assert "effective rank" in out and "toy_x accuracy" in out and "uncut" in out
    names = {path.name for path in (tmp_path / "rank").iterdir()}
    pictures = {f"{n}.{s}" for n in ("spectrum", "truncated") for s in ("png", "pdf")}
    assert names == {"rank.json"} | pictures


@pytest.mark.slow
def test_the_probe_records_the_signs_and_the_rank_at_every_evaluation(run, tmp_path, capfd):
    folder = tmp_path / "probe"
    argv = runs.arguments(folder, run.parent / "backbone", TRAIN_STEPS=6, EVAL_PERIOD=2)
    capfd.readouterr()
    assert main(["rank", "--probe", *argv[1:], "--gin.LEARNING_RATE_PEAK=2.0"]) == 0
    lines = [row for row in runs.metrics(folder) if row["split"] == "prompt"]
    assert [row["step"] for row in lines] == [2, 4, 6]
    factors = interop.load_factors(folder / "numpy_checkpoints" / "checkpoint_6")
    assert set(factors) == {"U", "sigma", "V"}
    sigma = factors["sigma"]
    assert sigma.shape == (runs.PROMPT_LENGTH,)
    assert lines[-1]["positive_entries"] == (sigma > 0).sum()
    assert lines[-1]["negative_entries"] == (sigma < 0).sum()
    folded = factors["U"] @ np.diag(np.maximum(sigma, 0)) @ factors["V"]
    assert lines[-1]["numerical_rank"] == np.linalg.matrix_rank(folded)
    np.testing.assert_allclose(runs.prompt(folder, 6), folded, rtol=1e-5, atol=1e-6)
    assert (folder / "rank.png").exists() and (folder / "rank.pdf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a prompt"),
        (["gone.npy"], "no prompt file gone.npy"),
        (
            ["p.npy", "--ranks=0"],
            "--ranks has 0; a prompt of this shape can be cut to ranks 1 to 4",
        ),
        (["p.npy", "--ranks=5"], "--ranks has 5"),
        (["p.npy", "--ranks=a"], "--ranks is 'a'"),
        (["p.npy", "--gin.BATCH_SIZE=4"], "--model_dir or --gin_file"),
        (["p.npy", "--probe"], "leave out p.npy"),
        (["--probe"], "with --gin_file"),
        (["p.npy", "--model_dir=gone"], "gone has no config.gin"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    interop.save_prompt("p.npy", np.ones((4, 6), np.float32))
    assert main(["rank", *arguments]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.slow
def test_a_prompt_of_another_width_than_the_model_is_refused(run, tmp_path, capfd):
    interop.save_prompt(tmp_path / "p.npy", np.ones((4, 6), np.float32))
    assert main(["rank", str(tmp_path / "p.npy"), f"--model_dir={run}"]) == 2
    assert "(4, 6)" in capfd.readouterr().err


@pytest.mark.slow
def test_attention_of_the_same_run_is_measured_and_drawn(run, capsys):
    """`dpt attention` on text, in the module that has a trained run at hand."""
    assert main(["attention", str(run), "--rows=20"]) == 0
    shown = capsys.readouterr().out
    told = json.loads((run / "attention" / "attention.json").read_text())
    assert told["rows"] == 20 and "20 rows of validation" in shown
    names = ["prompt", "text", "decoder"]
    assert list(told["selections"]) == [*names, *(f"{name}, untrained" for name in names)]
    for name in names:
        one, share = told["selections"][name], np.array(told["shares"][name])
        assert (0 < share).all() and (share < 1).all() and share.shape == np.shape(one["ratio"])
        assert one["low"][0] <= one["by_layer"][0] <= one["high"][0]
    for name in ("attention.png", "selection.png"):
        assert (run / "attention" / name).read_bytes()[:4] == b"\x89PNG"
    assert main(["report", str(run), f"--output={run.parent / 'report.md'}"]) == 0
    assert "report/runs_run_attention.png" in (run.parent / "report.md").read_text()
