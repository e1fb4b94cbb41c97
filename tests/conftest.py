"""What every test shares: the CPU as the default device, and skips that give their reason."""

import functools
import gc
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

import tests.support.triton_first  # noqa: F401


def quick_flags() -> str:
    """XLA's flags for compiling in a third of the time, where it knows them.

    The older emitters of fusions do less, and one part of a program comes after the other.
    """
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    # An XLA that does not know a flag ends the process.
    parsed = subprocess.run(
        [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
    )
    return flags if parsed.returncode == 0 else ""


# Before anything imports JAX or TensorFlow, which read these once. A test of another device sets
# JAX_PLATFORMS itself; a test of several devices starts its own process with virtual ones.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Nothing here may depend on the network: without these, the libraries look for newer files first.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_GCE_CHECK", "true")
# Programs are compiled once for all tests and the processes they start, and quickly: none of them
# runs for long. One setting for all, since other optimizations round differently. The folder is new
# for every run, because a process that a test kills may leave a program half written.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = quick_flags()
PROGRAMS = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # xdist's workers are started after this, and have the same.
    PROGRAMS = tempfile.mkdtemp(prefix="dpt-jax-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS


@functools.cache
def reason_to_skip_interop() -> str | None:
    missing = [
        name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None
    ]
    if not missing:
        return None
    return f"{', '.join(missing)} not installed: pip install 'dpt-jax[interop]'"


@functools.cache
def reason_to_skip_t5x() -> str | None:
    try:
        importlib.import_module("t5x")
    except ImportError as error:
        return f"`import t5x` fails ({error}): CONTRIBUTING.md tells how to put T5X on PYTHONPATH"
    return None


def pytest_collection_finish() -> None:
    # What is imported by now stays: the garbage collector need not go through it again and again.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    if processes := sys.modules.get("tests.support.processes"):
        processes.stop_server()
    if PROGRAMS is not None:
        shutil.rmtree(PROGRAMS, ignore_errors=True)


REASONS_TO_SKIP = {"interop": reason_to_skip_interop, "t5x": reason_to_skip_t5x}


# First, so that two processes come to their ends together: a file's tests stay in one of them.
LONGEST = (
    "t5x/test_launch.py",
    "sweeps/test_population.py",
    "cli/test_sweep.py",
    "cli/test_demo.py",
    "benchmarks/test_benchmarks.py",
    "devices/test_processes.py",
    "interop/test_family_parity.py",
    "theory/test_three_steps.py",
    "training/test_resume.py",
    "devices/test_meshes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))
    for item in items:
        for marker, reason_to_skip in REASONS_TO_SKIP.items():
            # Asked only for tests with the marker: importing T5X takes seconds.
            if item.get_closest_marker(marker) and (reason := reason_to_skip()):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    from tests.support import runs

    return runs.save_backbone(tmp_path_factory.mktemp("backbone"))
