"""What benchmarks/fit.py gives its sides to run, and the JSON object that it ends with."""

import json
import pathlib

import pytest

from dpt_jax.data import text_tasks

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Processor seconds of a start; with programs kept they are a second less.
SECONDS = {"fit": 4.0, "train": 5.0, "seqio": 10.0, "peft": 6.0}


@pytest.fixture
def fit(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import fit

    return fit


def test_the_last_line_has_the_medians_and_their_ratios(fit, monkeypatch, capsys):
    def start(folder, argv, cache=""):
        side = {fit.FIT: "fit", fit.PEFT: "peft"}.get(argv[1], "train")
        side = "seqio" if any(fit.SEQIO[1] in one for one in argv) else side
        printed = "2.0" if side == "fit" else json.dumps({"train_seconds": 3.0})
        return 9.0, SECONDS[side] - bool(cache), printed

    monkeypatch.setattr(fit, "prepare", lambda folder: None)
    monkeypatch.setattr(fit, "start", start)
    monkeypatch.setattr("sys.argv", ["fit.py", "--tiny"])
    fit.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["turns"] == 1 and result["ratio"] == 1.5
    assert result["peft_start_seconds"] == result["seqio_warm_start_seconds"] == 9.0
    ratios = {side: result[f"{side}_start_ratio"] for side in ("fit", "train", "seqio")}
    assert ratios == {"fit": 1.5, "train": 1.2, "seqio": 0.6}
    assert result["train_warm_start_ratio"] == 1.5


def test_dpt_train_reads_the_same_pairs_as_the_others(fit, monkeypatch, tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps([["is it red ?", "yes"]]))
    (tmp_path / f"{fit.TEXTS[1]}.py").write_text(fit.TEXT_TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert text_tasks.lists_text_tasks(fit.TEXTS[1])
    module = __import__(fit.TEXTS[1])
    task = text_tasks.find(module, fit.TEXTS[0])
    assert list(task.rows("train")) == [{"inputs": "is it red ?", "targets": "yes"}]
    assert f"--gin.MIXTURE_OR_TASK_MODULE={fit.TEXTS[1]!r}" in fit.train(tmp_path, 1)
