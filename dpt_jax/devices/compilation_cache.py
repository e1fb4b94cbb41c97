"""Compiled programs, kept on disk from one process to the next.

The folder is `DPT_COMPILATION_CACHE`, by default `$XDG_CACHE_HOME/dpt-jax/programs` (`~/.cache`);
`off` keeps nothing. Where `JAX_COMPILATION_CACHE_DIR` is set, JAX keeps its programs there by
itself.

JAX's own cache writes a program in place, and does not write it again. A process that is killed
over it leaves a program that all later ones warn of and compile anew. Here a program appears when
it is whole, and one that is not is compiled and written again.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import logging
import os
import pathlib
import platform
import tempfile
import time
from typing import Any

VARIABLE = "DPT_COMPILATION_CACHE"
# Of all programs together. A run of the demo keeps 0.4 MB.
LIMIT_BYTES = 2**30
_JAXS_CACHE = "jax._src.compilation_cache"
_SUFFIX, _UNFINISHED = ".program", ".unfinished"


def start() -> None:
    """Has JAX keep its programs, and find them again; where that cannot be, says so and goes on.

    To be called before anything is compiled.
    """
    setting = os.environ.get(VARIABLE, "")
    if setting == "off" or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = pathlib.Path(setting or f"{cache_home}/dpt-jax/programs")
    try:
        programs = Programs(folder.expanduser())
    except (OSError, RuntimeError) as e:
        logging.warning(
            "Compiled programs are not kept: %s cannot be written (%s). Set %s to a folder, or to "
            "off.",
            folder,
            e,
            VARIABLE,
        )
        return

    import jax

    # JAX asks no one else for a cache, and has no public name for this place.
    found = importlib.util.find_spec(_JAXS_CACHE)
    module: Any = found and importlib.import_module(_JAXS_CACHE)
    if not hasattr(module, "get_file_cache"):
        logging.warning("Compiled programs are not kept: JAX %s is not known.", jax.__version__)
        return
    module.reset_cache()
    module.get_file_cache = lambda path: (programs, path)
    jax.config.update("jax_compilation_cache_dir", str(folder.expanduser()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX would keep those that took a second, and a small run has many that take less.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class Programs:
    """A folder of programs that any number of processes read and write; none waits for another.

    It has the methods that JAX asks of a cache.
    """

    def __init__(self, folder: pathlib.Path, limit_bytes: int = LIMIT_BYTES):
        """Makes the folder; raises OSError where it cannot be written."""
        # JAX logs the name.
        self._path = folder
        self._limit = limit_bytes
        # The other programs are counted when the first one is written.
        self._uncounted = limit_bytes
        self._full = False
        self._machine = _machine()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=_UNFINISHED):
            pass

    def _file(self, key: str) -> pathlib.Path:
        name = hashlib.sha256(f"{self._machine} {key}".encode()).hexdigest()
        return self._path / f"{name}{_SUFFIX}"

    def get(self, key: str) -> bytes | None:
        """The program, or None where there is none that is whole."""
        file = self._file(key)
        try:
            written = file.read_bytes()
        except OSError:
            return None
        digest, program = written[:32], written[32:]
        if hashlib.sha256(program).digest() != digest:
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # The last use decides what is deleted first.
        return program

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program, in the place of one that could not be used."""
        if self._full:
            return
        try:
            with tempfile.NamedTemporaryFile(
                dir=self._path, suffix=_UNFINISHED, delete=False
            ) as file:
                file.write(hashlib.sha256(value).digest() + value)
            os.replace(file.name, self._file(key))
            self._uncounted += len(value)
            if self._uncounted > self._limit // 16:
                self._uncounted = 0
                self._prune()
        except OSError as e:
            logging.warning("No more compiled programs are kept in %s: %s.", self._path, e)
            self._full = True

    def _prune(self) -> None:
        """Deletes what was used longest ago until a quarter is free, where there is too much."""
        hour_ago = time.time() - 3600
        for left in self._path.glob(f"*{_UNFINISHED}"):
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < hour_ago:
                    left.unlink()
        found = []
        for file in self._path.glob(f"*{_SUFFIX}"):
            # Another process may be pruning.
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        for _, size, file in sorted(found):
            if total <= self._limit * 3 // 4:
                break
            file.unlink(missing_ok=True)
            total -= size


def _machine() -> str:
    """What decides on a CPU which programs can run, and how they share the work.

    A home folder may be that of many machines.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        with open("/proc/cpuinfo") as file:
            features = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.machine()} {cores} {features}"
