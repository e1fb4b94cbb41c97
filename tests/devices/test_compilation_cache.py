"""Programs are compiled once: by the next process as well, whatever became of the last one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dpt_jax.cli.main import main
from dpt_jax.devices import compilation_cache
from dpt_jax.devices.compilation_cache import Programs
from tests.support import processes, runs

# What a new process has where nothing is set: not the cache of the tests.
UNSET = """
import os, jax
for name in [name for name in os.environ if "CACHE" in name and not name.startswith("DPT_")]:
    del os.environ[name]
jax.config.update("jax_compilation_cache_dir", None)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
"""


def start(script, *argv, **environment):
    """Starts a process with a cache of its own."""
    return processes.Process(["-c", UNSET + script, *argv], dict(os.environ) | environment)


def start_anew(script, *argv, **environment):
    """The same, of a process that imports everything by itself, as a command does."""
    inherited = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, argv)],
        env=inherited | environment,
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def files(folder):
    return {file.name: file.stat().st_ino for file in folder.iterdir()}


COUNTED = """
import collections, json, sys
import jax.monitoring
from dpt_jax.cli.main import main
from dpt_jax.devices import agreement

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.split("/")[-1]]))
stop, *argv = sys.argv[1:]
statuses = []
if stop != "0":
    should_stop, agreement.should_stop = agreement.should_stop, lambda step, _: step == int(stop)
    statuses.append(main(argv))
    agreement.should_stop = should_stop
statuses.append(main(argv))
print(json.dumps([statuses, counts["compile_requests_use_cache"], counts["cache_hits"]]))
"""


@pytest.mark.slow
def test_a_repeated_and_resumed_run_compiles_nothing_and_gives_the_same_bits(backbone, tmp_path):
    programs = tmp_path / "programs"

    def counted(name, stop):
        argv = runs.arguments(tmp_path / name, backbone, DROPOUT_RATE=0.1)
        out, err = output(start(COUNTED, stop, *argv, DPT_COMPILATION_CACHE=str(programs)))
        return json.loads(out.splitlines()[-1]), err

    (statuses, requests, hits), _ = counted("whole", 0)
    assert statuses == [0] and requests > 5 and hits < requests
    before = files(programs)
    (statuses, requests, hits), err = counted("broken", 5)
    assert statuses == [143, 0] and "continuing from step 5" in err
    assert hits == requests > 5
    assert files(programs) == before
    assert runs.metrics(tmp_path / "broken") == runs.metrics(tmp_path / "whole")
    ours, theirs = (runs.prompt(tmp_path / name, 12) for name in ("broken", "whole"))
    assert ours.tobytes() == theirs.tobytes()


PRODUCT = """
import sys, warnings
warnings.simplefilter("error")
from dpt_jax.devices import compilation_cache
compilation_cache.start()
import jax, jax.numpy as jnp
if sys.argv[1] == "die":
    import os, signal
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
print(jax.jit(lambda x: (x @ x + 1).sum())(jnp.arange(16.0).reshape(4, 4)))
"""


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_compiled_again_and_once(tmp_path):
    cache = {"DPT_COMPILATION_CACHE": str(tmp_path)}
    killed = start_anew(PRODUCT, "die", **cache)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    x = np.arange(16.0).reshape(4, 4)
    expected = (f"{(x @ x + 1).sum()}\n", "")
    assert output(start(PRODUCT, "live", **cache)) == expected
    whole = {f: f.read_bytes() for f in tmp_path.iterdir() if f != left}
    assert whole
    # As a full disk or a copy that was broken off would leave it.
    for file, written in whole.items():
        file.write_bytes(written[: len(written) // 2])
    assert output(start(PRODUCT, "live", **cache)) == expected
    assert {file: len(file.read_bytes()) for file in whole} == pytest.approx(
        {file: len(written) for file, written in whole.items()}, rel=0.05
    )
    before = files(tmp_path)
    assert output(start_anew(PRODUCT, "live", **cache)) == expected
    assert files(tmp_path) == before


@pytest.mark.parametrize("left", [b"", b"\0" * 32, b"\0" * 500, b"half"])
def test_a_program_that_is_not_whole_is_none_and_is_replaced(tmp_path, left):
    programs = Programs(tmp_path)
    programs.put("a", b"whole program")
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if left == b"half" else left)
    assert programs.get("a") is None
    programs.put("a", b"whole program")
    assert Programs(tmp_path).get("a") == b"whole program"
    assert file.read_bytes() == whole


# Programs of a megabyte, so that a write is not over in an instant.
HAMMER = """
import pathlib, random, sys
from dpt_jax.devices.compilation_cache import Programs
programs, seen = Programs(pathlib.Path(sys.argv[1]), limit_bytes=5_000_000), 0
for turn in range(60):
    key = random.randrange(10)
    found = programs.get(str(key))
    assert found in (None, bytes([key]) * 1_000_000)
    seen += found is not None
    programs.put(str(key), bytes([key]) * 1_000_000)
print(seen)
"""


@pytest.mark.slow
def test_several_processes_write_read_and_prune_at_once(tmp_path):
    group = [start(HAMMER, tmp_path) for _ in range(3)]
    assert all(int(output(process)[0]) > 0 for process in group)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 6_000_000


def test_the_longest_unused_goes_first_and_what_the_killed_left(tmp_path):
    programs = Programs(tmp_path, limit_bytes=10_000)
    (tmp_path / "new.unfinished").touch()
    (tmp_path / "old.unfinished").touch()
    os.utime(tmp_path / "old.unfinished", (0, time.time() - 7200))
    now = time.time()
    for key in range(9):
        programs.put(str(key), bytes(1000))
        os.utime(programs._file(str(key)), (now, now - 1000 + key))
    assert programs.get("0") is not None  # Used, and so the newest.
    programs.put("9", bytes(1000))
    kept = [key for key in range(10) if programs.get(str(key)) is not None]
    assert kept == [0, 4, 5, 6, 7, 8, 9]
    assert {file.name for file in tmp_path.glob("*.unfinished")} == {"new.unfinished"}


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("a file")
    np.save(tmp_path / "prompt.npy", np.eye(4, 8, dtype=np.float32))
    for folder in (tmp_path / "file", tmp_path / "file" / "programs"):
        caplog.clear()
        monkeypatch.setenv(compilation_cache.VARIABLE, str(folder))
        assert main(["rank", str(tmp_path / "prompt.npy")]) == 0
        [message] = [record.getMessage() for record in caplog.records]
        assert f"{folder} cannot be written" in message and "\n" not in message
        assert compilation_cache.VARIABLE in message


def test_a_disk_that_fills_up_is_said_once(tmp_path, monkeypatch, caplog):
    programs = Programs(tmp_path)
    programs.put("a", b"a")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for key in "bc":
        programs.put(key, b"b")
    [message] = [record.getMessage() for record in caplog.records]
    assert str(tmp_path) in message and "No space left" in message
    assert programs.get("a") == b"a" and programs.get("b") is None


def test_where_the_programs_are(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(compilation_cache, "Programs", lambda folder: seen.append(folder) or 1 / 0)

    def folder(**environment):
        for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", compilation_cache.VARIABLE):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        seen.clear()
        try:
            compilation_cache.start()
        except ZeroDivisionError:
            return str(seen[0])
        return None

    assert folder(HOME="/home/a") == "/home/a/.cache/dpt-jax/programs"
    assert folder(XDG_CACHE_HOME="/caches") == "/caches/dpt-jax/programs"
    assert folder(DPT_COMPILATION_CACHE="~/mine", HOME="/home/a") == "/home/a/mine"
    assert folder(DPT_COMPILATION_CACHE="off") is None
    assert folder(JAX_COMPILATION_CACHE_DIR="/jax", DPT_COMPILATION_CACHE="/mine") is None


@pytest.mark.parametrize("there", ["jax._src.of_another_version", "jax.numpy"])
def test_a_jax_whose_cache_is_elsewhere_is_named_and_the_run_goes_on(
    there, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv(compilation_cache.VARIABLE, str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compilation_cache, "_JAXS_CACHE", there)
    compilation_cache.start()
    assert caplog.messages == [
        f"Compiled programs are not kept: JAX {jax.__version__} is not known."
    ]
