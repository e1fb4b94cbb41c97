"""docs/settings.md says what the code says."""

import importlib.util
import pathlib
import re

from dpt_jax.gin_utils import MACROS

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_the_page_is_what_its_script_makes_of_the_code():
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (DOCS / "settings.md").read_text() == script.page(), "run: python docs/make_settings.py"


def test_every_macro_of_dpt_train_is_on_it():
    named = set(re.findall(r"^\| `([A-Z_]+)` \|", (DOCS / "settings.md").read_text(), re.MULTILINE))
    assert named == set(MACROS)
