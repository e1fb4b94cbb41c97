"""The notebooks run from top to bottom, each in one kernel, and are kept with what they show."""

import pathlib
import re

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed (extra `test`)")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra `test`)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra `test`)")

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = ("look_inside_a_prompt", "tune_a_prompt")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def shown(notebook):
    """What its cells show as text, one after another."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_all_notebooks_are_kept_with_their_outputs():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    for name in NAMES:
        notebook = read(name)
        assert pictures(notebook) and "exact_match" in shown(notebook)
        assert not [c for c in notebook.cells for o in c.get("outputs", ()) if "ename" in o]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom_and_learns(name, tmp_path):
    notebook, kept = read(name), read(name)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert pictures(notebook) == pictures(kept)
    # The last one is that of the trained prompt; the majority's is 0.5.
    scores = re.findall(r"'exact_match': ([\d.]+)", shown(notebook))
    assert float(scores[-1]) > 0.7 if name == "look_inside_a_prompt" else scores == ["0.0"]
