"""What is said where T5X is missing or too old, and that nothing else needs it."""

import os
import subprocess
import sys

import pytest

MODULES = (
    "numpy_checkpoints",
    "prompt_checkpointer",
    "prompt_optimizer",
    "prompt_state",
    "prompted_network",
    "vocabulary",
)


def python(program, path=""):
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize("module", MODULES)
def test_one_line_says_what_to_install_where_t5x_is_missing(module):
    blocked = f"import sys; sys.modules['t5x'] = None; import dpt_jax.t5x.{module}"
    done = python(blocked)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: dpt_jax.t5x needs T5X")
    assert "github.com/google-research/t5x" in last
    assert "docs/t5x.md" in last
    # No chain of other exceptions before it.
    assert done.stderr.count("Traceback") == 1


def test_one_line_says_what_to_install_where_t5x_is_too_old(tmp_path):
    (tmp_path / "t5x").mkdir()
    for name in ("__init__", "checkpoints"):
        (tmp_path / "t5x" / f"{name}.py").touch()
    done = python("import dpt_jax.t5x", tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: T5X at ")
    assert "is too old: t5x.checkpoints has no Checkpointer" in last
    assert "commit cc342d4" in last


@pytest.mark.slow
def test_everything_else_is_imported_without_t5x():
    done = python("""
import importlib, pkgutil, sys
sys.modules["t5x"] = None
import dpt_jax
for module in pkgutil.walk_packages(dpt_jax.__path__, "dpt_jax."):
    if module.name.split(".")[1] not in ("t5x", "__main__"):
        importlib.import_module(module.name)
        print(module.name)
""")
    assert done.returncode == 0, done.stderr
    assert {"dpt_jax.cli.train", "dpt_jax.interop.prompts"} <= set(done.stdout.split())
