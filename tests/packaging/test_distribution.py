"""What `pip install` gives: the wheel's contents and the installed package's resources."""

import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "dpt_jax",
    "gin_configs",
    "pyproject.toml",
    "setup.py",
    "tasks",
)


def relative_names(folder: str, pattern: str) -> set[str]:
    paths = (ROOT / folder).rglob(pattern)
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> set[str]:
    # From a copy, because a build leaves its own folders in the tree it is made from.
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = out.glob("dpt_jax-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_wheel_carries_every_module_of_the_package(wheel_names):
    assert relative_names("dpt_jax", "*.py") <= wheel_names
    assert "dpt_jax/py.typed" in wheel_names


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "pattern"), [("tasks", "*.py"), ("gin_configs", "*")])
def test_wheel_carries_the_mapped_folder_inside_the_package(wheel_names, folder, pattern):
    names = {name for name in relative_names(folder, pattern) if "__pycache__" not in name}
    assert names
    assert {f"dpt_jax/{name}" for name in names} <= wheel_names
    assert not {name for name in wheel_names if name.startswith(f"{folder}/")}


@pytest.mark.slow
def test_wheel_carries_the_demo_backbone(wheel_names):
    backbone = relative_names("dpt_jax/demo/backbone", "*")
    if not backbone:
        pytest.skip("dpt_jax/demo/backbone is not in this tree")
    assert backbone <= wheel_names
    assert {Path(name).suffix for name in backbone} >= {".json", ".model", ".safetensors"}


@pytest.mark.slow
def test_wheel_carries_the_license_and_nothing_of_the_tests(wheel_names):
    assert [name for name in wheel_names if name.endswith("licenses/LICENSE")]
    assert not [name for name in wheel_names if name.startswith(("tests/", "benchmarks/"))]


def test_every_gin_file_is_a_package_resource_from_any_directory(tmp_path):
    program = """
import importlib.resources, json
def files(folder, at=""):
    for entry in folder.iterdir():
        name = f"{at}{entry.name}"
        if entry.is_dir():
            yield from files(entry, f"{name}/")
        elif name.endswith(".gin"):
            assert entry.read_text().strip(), name
            yield name
print(json.dumps(sorted(files(importlib.resources.files("dpt_jax.gin_configs")))))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    expected = {
        name.removeprefix("gin_configs/") for name in relative_names("gin_configs", "*.gin")
    }
    assert set(json.loads(found.stdout)) == expected


def test_tasks_is_one_module_under_one_name():
    import dpt_jax.tasks

    assert Path(dpt_jax.tasks.__file__).samefile(ROOT / "tasks" / "__init__.py")
    # A second module object under the folder's own name would register every task twice.
    with pytest.raises(ImportError, match=r"dpt_jax\.tasks"):
        importlib.import_module("tasks")


def test_importing_the_package_loads_no_heavy_library():
    heavy = ("flax", "jax", "matplotlib", "optax", "orbax", "seqio", "tensorflow", "torch")
    program = f"import sys, dpt_jax\nprint(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_command_is_installed_and_tells_the_version():
    from importlib.metadata import entry_points, version

    import dpt_jax

    assert version("dpt-jax") == dpt_jax.__version__
    (script,) = entry_points(group="console_scripts", name="dpt")
    assert script.value == "dpt_jax.cli.main:main"
    assert callable(script.load())
