"""The benchmark of the three gradient steps runs, and ends with its JSON object."""

import json
import pathlib
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_three_steps_benchmark_prints_its_rate(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["three_steps.py", "--tokens=6e4"])
    runpy.run_path(str(ROOT / "benchmarks" / "three_steps.py"), run_name="__main__")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["tokens"] == 60_000
    assert told["tokens_per_second"] > 0 and told["peak_gb"] > 0
