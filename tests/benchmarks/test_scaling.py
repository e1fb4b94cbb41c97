"""The table of scaling.jsonl."""

import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load():
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_documents_is_that_of_the_rows():
    scaling = load()
    rows = scaling.read(ROOT / "docs" / "scaling.jsonl")
    assert scaling.table(rows) in (ROOT / "docs" / "scaling.md").read_text()


@pytest.mark.parametrize("attention", ["plain", "auto"])
def test_weak_scaling_on_paper_keeps_85_percent_from_16_to_256_chips(attention):
    rows = {
        (r["model"], r["chips"], r["mesh"][2]): r
        for r in map(json.loads, (ROOT / "docs" / "scaling.jsonl").read_text().splitlines())
        if r["topology"].startswith("v5e") and r.get("attention", "plain") == attention
    }
    cases = ("t5_1_0_11b", 4), ("t5_1_0_11b", 16), ("t5_1_0_large", 1), ("t5_1_1_xxl", 16)
    for model, axis in cases:
        few, many = rows[model, 16, axis], rows[model, 256, axis]
        assert many["batch_size"] == 16 * few["batch_size"]
        assert few["estimated_step_seconds"] / many["estimated_step_seconds"] >= 0.85
