"""Who may import whom: the rooms of the package stand on one another, and imports go down."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "dpt_jax"
TASKS = PACKAGE.parent / "tasks"
# From the top down. A room imports what stands in lines below its own, and itself.
HOUSE = """
cli
planning prompted_t5 sweeps
inference
problems
evaluation
training
t5x
demo gin_utils theory
data analysis interop
devices models
locks tensors run_files gin_text
prefixes
prompts files huge_pages progress tasks
paths
errors memo quiet_import version
""".split("\n")[1:-1]
LEVEL = {room: -level for level, line in enumerate(HOUSE) for room in line.split()}


def room_of(name):
    """The room of a module such as `dpt_jax.data.tasks`; None outside, and for the package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "dpt_jax" and len(parts) > 1 else None


def imported(path):
    """The modules that a file imports, wherever in it, those for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


def rooms():
    """(importing room, imported room, file) for every import between rooms."""
    for path in FILES:
        here = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imported(path):
            there = room_of(name)
            if there not in (None, here):
                yield here, there, path.relative_to(PACKAGE.parent)


def test_every_room_has_its_place():
    found = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert found - {"__init__", "__main__"} | {"tasks"} == set(LEVEL)


def test_the_page_on_the_architecture_has_the_same_lines():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = text.partition("| --- | --- |\n")[2].partition("\n\n")[0]
    lines = [
        sorted(re.sub(r"(/|\.py)$", "", room) for room in re.findall(r"`(.*?)`", cell))
        for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    ]
    assert lines == [*(sorted(line.split()) for line in HOUSE), ["gin_configs"]]


def test_imports_go_down():
    up = {
        f"{path} imports {there}"
        for here, there, path in rooms()
        if here in LEVEL and there in LEVEL and LEVEL[there] >= LEVEL[here]
    }
    assert not up


@pytest.mark.parametrize("room", ["training"])
def test_training_knows_nothing_of_text(room):
    known = {there for here, there, _ in rooms() if here == room}
    assert not known & {"data", "evaluation", "interop", "problems", "tasks", "gin_utils"}
    outside = {
        name.split(".")[0] for path in (PACKAGE / room).rglob("*.py") for name in imported(path)
    }
    assert not outside & {"seqio", "tensorflow", "tensorflow_datasets", "sentencepiece", "gin"}


def test_the_theory_is_functions_of_jax_and_optax():
    pure = list((PACKAGE / "theory").glob("*.py"))
    outside = {name.split(".")[0] for path in pure for name in imported(path)} - {"dpt_jax"}
    known = {"jax", "jaxtyping", "numpy", "optax", "collections", "dataclasses", "math", "typing"}
    assert outside <= known
    assert {room_of(name) for path in pure for name in imported(path)} <= {None, "theory", "errors"}


@pytest.mark.slow
def test_only_t5x_imports_t5x_and_tasks_import_nothing_of_the_package():
    users = {
        path.parent.name for path in FILES for name in imported(path) if name.split(".")[0] == "t5x"
    }
    assert users == {"t5x"}
    inner = [name for path in TASKS.glob("*.py") for name in imported(path) if room_of(name)]
    assert {room_of(name) for name in inner} <= {"tasks"}
