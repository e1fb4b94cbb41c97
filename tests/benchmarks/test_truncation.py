"""Prompts of a sweep cut to ranks: what `dpt report` makes of them, and the score that is known."""

import runpy
import sys

import pytest

from dpt_jax.analysis.results import read_results
from dpt_jax.cli.main import main
from tests.benchmarks.test_benchmarks import BENCHMARKS
from tests.support import runs, toy_sweeps


@pytest.mark.slow
def test_a_prompt_that_keeps_its_rank_keeps_its_score(tmp_path, monkeypatch):
    backbone = runs.save_backbone(tmp_path)
    sweep = toy_sweeps.write(
        tmp_path / "toy.gin",
        backbone,
        report={"scale": 100},
        bindings={
            "RANDOM_SEED": "{seed}",
            # The label words ranked: a prompt that is hardly trained has a score, too.
            "MIXTURE_OR_TASK_NAME": "ranked_two",
            "MIXTURE_OR_TASK_MODULE": "tests.support.ranked_tasks",
            "SCORING": "rank",
        },
        cases={"method": {"DPT": {}}},
        grid={"method": ["DPT"], "seed": [0, 1]},
    )
    assert main(["sweep", f"--gin_file={sweep}", f"--output={tmp_path / 'toy'}"]) == 0
    cut = tmp_path / "cut"
    script = BENCHMARKS / "truncation.py"
    swept = tmp_path / "toy" / "toy"
    monkeypatch.setattr(sys, "argv", [str(script), str(swept), f"--output={cut}"])
    runpy.run_path(str(script), run_name="__main__")
    whole = {row["axes"]["seed"]: row["value"] for row in read_results(swept)}
    found = read_results(cut)
    kept = {r["axes"]["seed"]: r["value"] for r in found if r["axes"]["rank"] == runs.BOTTLENECK}
    assert kept == whole and all(0 < score < 1 for score in whole.values())
    assert [row["axes"]["rank"] for row in found] == [1, 2, 1, 2]
    assert main(["report", str(cut), f"--output={tmp_path / 'cut.md'}"]) == 0
    assert "rank kept" in (tmp_path / "cut.md").read_text()
