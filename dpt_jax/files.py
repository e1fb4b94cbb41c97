"""Writing files and folders so that a crash never leaves a half-written one under its name."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
      when the block raises.

    Raises:
      FileExistsError: `path` exists and is not an empty folder; nothing is written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{TEMPORARY_MARK}", dir=path.parent))
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
