"""docs/theory.md has the numbers of the results that are kept beside it."""

import importlib.util
import pathlib

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_tables_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("make_theory", DOCS / "make_theory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "theory.md").read_text()
    for name in module.EXPERIMENTS:
        assert f"<!-- {name} -->" in page
    assert module.make(page) == page, "run python docs/make_theory.py"
