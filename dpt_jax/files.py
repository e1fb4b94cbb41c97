"""Writing files and folders so that a crash never leaves a half-written one under its name.

JSON is written for any parser: what is not a number becomes null, arrays become lists.
"""

import contextlib
import fcntl
import glob
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Names of unfinished work carry this, so that readers can tell what an interrupted writer left.
TEMPORARY_MARK = ".tmp-"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Writes a file that appears under `path` only when it is complete and on disk.

        with atomic_write("prompt.npy") as temporary:
            with open(temporary, "wb") as file:
                np.save(file, prompt)

    Args:
      path: the file to write; missing parent folders are made, an existing file is replaced.

    Yields:
      The path of an empty temporary file in the same folder, so that the final rename is atomic,
      and with the same suffix. It is synced and renamed to `path` when the block ends, and removed
      when the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{path.stem}{TEMPORARY_MARK}", suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner can read; a result is an ordinary file.
        os.chmod(temporary, 0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Fills a folder that appears under `path` only when it is complete and on disk.

    Args:
      path: the folder to make; it must not exist, or be empty.

    Yields:
      An empty temporary folder beside `path`, renamed to `path` when the block ends and removed
      when the block raises. What killed processes left of the same folder is removed first.

    Raises:
      FileExistsError: `path` exists and is not an empty folder; nothing is written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}{TEMPORARY_MARK}"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        _remove_unless_locked(leftover)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    # Ends with the process, however it ends.
    lock = _lock(temporary)
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for written in temporary.rglob("*"):
            _sync(written)
        _sync(temporary)
        # On POSIX a folder replaces an empty folder, and only an empty one.
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Locks a folder and returns the handle that holds the lock; None where that cannot be done."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Held by another process, or a file system without locks.
        os.close(handle)
        return None
    return handle


def _remove_unless_locked(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = _lock(folder)
        # One that is empty may have been made this moment, its lock still to come.
        if lock is not None and any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_ready(value: Any) -> Any:
    """`value` in terms of dicts, lists, texts, finite numbers, booleans and None.

    NaN and infinities, which JSON does not have, become None; arrays become nested lists, bytes
    text, and whatever else JSON cannot hold its `str`.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((json_ready(v) for v in value), key=str)
    return value if value is None or isinstance(value, str | int) else str(value)


def json_dumps(value: Any, **kwargs: Any) -> str:
    """`json.dumps` of what `json_ready` makes of `value`."""
    return json.dumps(json_ready(value), allow_nan=False, **kwargs)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file atomically; what is not a number becomes null."""
    with atomic_write(path) as temporary:
        temporary.write_text(json_dumps(value, indent=2, sort_keys=True) + "\n")


def write_json_lines(path: str | os.PathLike, records: Iterable[Any]) -> None:
    """Writes one JSON value per line, atomically."""
    with atomic_write(path) as temporary, open(temporary, "w") as file:
        for record in records:
            file.write(json_dumps(record) + "\n")
