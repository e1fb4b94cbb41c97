"""Writing files and folders so that a crash never leaves a half-written one under its name.

In a file system of this machine, a file or folder is written under a temporary name beside its own,
synced, and renamed. In a bucket an object appears when all of it has arrived, and nothing can be
renamed: a folder is there when the file is that was written last.

JSON is written for any parser: what is not a number becomes null, arrays become lists.
"""

import contextlib
import ctypes
import errno
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

from dpt_jax.paths import as_path, in_bucket

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
      The path of an empty temporary file with the same suffix, in the same folder, or on this
      machine where that is in a bucket. It becomes `path` when the block ends, and is removed when
      the block raises. What killed processes left of the same file is removed first.
    """
    target = as_path(path)
    if in_bucket(target):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, target.name)
            temporary.touch()
            yield temporary
            write_bytes(target, temporary.read_bytes())
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target, target.stem, target.suffix, _make_file) as temporary:
        yield temporary
        # mkstemp makes files that only their owner can read; a result is an ordinary file.
        os.chmod(temporary, 0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)


@contextlib.contextmanager
def atomic_folder(
    path: str | os.PathLike, last: str | None = None, replace: bool = False
) -> Iterator[Path]:
    """Fills a folder that appears under `path` only when it is complete and on disk.

    Args:
      path: the folder to make; it must not exist, or be empty.
      last: the file that makes it whole for its readers, which is the last to come to a bucket, and
        the first to go where an older folder is replaced there. None refuses buckets.
      replace: takes the place of a folder that is there. Linux swaps the two at once, so that
        readers find the one or the other. Elsewhere the name stands for nothing for a moment.

    Yields:
      An empty temporary folder beside `path`, or on this machine where that is in a bucket. It
      becomes `path` when the block ends, and is removed when the block raises. What killed
      processes left of the same folder is removed first.

    Raises:
      FileExistsError: `path` exists and is not an empty folder; nothing is written.
    """
    target = as_path(path)
    if not replace and target.exists() and not (target.is_dir() and not entries(target)):
        raise FileExistsError(f"{target} exists and is not an empty folder.")
    if in_bucket(target):
        if last is None:
            raise NotADirectoryError(f"{target} is in a bucket, but has to be on this machine.")
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            _upload(Path(folder), target, last)
        return
    # Of a link, what it stands for is replaced.
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target, target.name, "", _make_folder) as temporary:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for written in temporary.rglob("*"):
            _sync(written)
        _sync(temporary)
        if replace and target.exists():
            _swap(temporary, target)
        else:
            # On POSIX a folder replaces an empty folder, and only an empty one.
            os.replace(temporary, target)
        _sync(target.parent)


def _upload(folder: Path, path: Any, last: str) -> None:
    """Copies a folder's files into a bucket in place of what is there."""
    remove(path / last)
    written = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [str(file.relative_to(folder)) for file in written]
    names.sort(key=lambda name: name == last)
    for old in entries(path):
        if old.name not in {name.split("/")[0] for name in names}:
            remove(old)
    for name in names:
        write_bytes(path / name, (folder / name).read_bytes())


@contextlib.contextmanager
def _temporary(path: Path, stem: str, suffix: str, make: Any) -> Iterator[Path]:
    """A locked temporary file or folder beside `path`, removed at the end if it is still there."""
    prefix = f".{stem}{TEMPORARY_MARK}"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{glob.escape(suffix)}"):
        _remove_unless_locked(leftover)
    while True:
        temporary = Path(make(prefix=prefix, suffix=suffix, dir=path.parent))
        # Another writer may take it for what a killed one has left, before it is locked.
        try:
            # Ends with the process, however it ends.
            lock = _lock(temporary)
        except BlockingIOError:
            continue
        if temporary.exists():
            break
        if lock is not None:
            os.close(lock)
    try:
        yield temporary
    finally:
        remove(temporary)
        if lock is not None:
            os.close(lock)


def _make_file(**names: Any) -> str:
    handle, name = tempfile.mkstemp(**names)
    os.close(handle)
    return name


def _make_folder(**names: Any) -> str:
    return tempfile.mkdtemp(**names)


def _lock(path: Path) -> int | None:
    """Locks a file or folder and returns the handle that holds the lock.

    None where there is nothing, or no locks are.

    Raises:
      BlockingIOError: when another holds it.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        # A file system without locks.
        os.close(handle)
        return None
    return handle


def _remove_unless_locked(path: Path) -> None:
    try:
        lock = _lock(path)
    except BlockingIOError:
        return
    if lock is not None:
        with contextlib.suppress(OSError):
            remove(path)
        os.close(lock)


# Linux: swap two names, whatever they stand for.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


def _swap(new: Path, old: Path) -> None:
    """Puts `new` in the place of `old`, and `old` in that of `new` or nowhere."""
    if _exchange(new, old):
        return
    aside = Path(tempfile.mkdtemp(prefix=new.name, dir=new.parent))
    os.replace(old, aside)
    os.replace(new, old)
    remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names at once; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(error, os.strerror(error), str(one), None, str(other))


def clear_unfinished(folder: str | os.PathLike) -> None:
    """Deletes the temporary files, in all of a folder, that its writers left when they were killed.

    What a living writer holds stays. Where there are no locks everything goes, as it is for the one
    process that may write there.
    """
    root = as_path(folder)
    if in_bucket(root):
        return
    for path in list(root.rglob(f".*{TEMPORARY_MARK}*")):
        try:
            lock = _lock(path)
        except BlockingIOError:
            continue
        remove(path)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def fetched(path: str | os.PathLike) -> Iterator[Path]:
    """Something small where this machine's libraries can open it.

    Args:
      path: a file, or a folder.

    Yields:
      `path` itself, or, of what is in a bucket, a copy: of a folder, the files that are directly in
      it.

    Raises:
      FileNotFoundError: there is nothing.
    """
    source = as_path(path)
    if not in_bucket(source):
        yield source
        return
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, source.name)
        if source.is_dir():
            copy.mkdir()
            for file in entries(source):
                if not file.is_dir():
                    (copy / file.name).write_bytes(file.read_bytes())
        else:
            copy.write_bytes(source.read_bytes())
        yield copy


def entries(folder: str | os.PathLike) -> list[Any]:
    """What is in a folder, as paths; nothing where there is no such folder."""
    root = as_path(folder)
    return sorted(root.iterdir()) if root.is_dir() else []


def remove(path: str | os.PathLike) -> None:
    """Removes a file, or a folder and what is in it, where there is one."""
    target = as_path(path)
    if in_bucket(target):
        if target.is_dir():
            target.rmtree(missing_ok=True)
        else:
            target.unlink(missing_ok=True)
    elif target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


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


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file atomically."""
    target = as_path(path)
    if in_bucket(target):
        # Buckets have no folders; some of what stands for one has.
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return
    with atomic_write(target) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text atomically, in UTF-8."""
    write_bytes(path, text.encode())


def json_ready(value: Any) -> Any:
    """`value` in terms of dicts, lists, texts, finite numbers, booleans and None.

    NaN and infinities, which JSON does not have, become None; arrays become nested lists, bytes
    text, and whatever else JSON cannot hold its `str`.
    """
    # An array or a number of NumPy's; the commands' list of flags can do without importing it.
    if hasattr(value, "tolist"):
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
    write_text(path, json_dumps(value, indent=2, sort_keys=True) + "\n")


def write_json_lines(path: str | os.PathLike, records: Iterable[Any]) -> None:
    """Writes one JSON value per line, atomically."""
    with atomic_write(path) as temporary, open(temporary, "w") as file:
        for record in records:
            file.write(json_dumps(record) + "\n")
