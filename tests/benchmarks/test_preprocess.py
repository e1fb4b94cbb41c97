"""The benchmark of preprocessing runs, at a tiny size, and ends with its JSON object."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_preprocess_benchmark_prints_rates():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "preprocess.py"), "--tiny"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["examples"] == 60
    assert result["examples_per_second"] > 0
    assert result["tokenizer_examples_per_second"] > 0
    assert result["mean_source_tokens"] > 100
