"""Where a command will write is tried before its work begins, so that no work is lost there."""

import os
import tempfile
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.files import TEMPORARY_MARK, remove, write_bytes
from dpt_jax.paths import as_path, in_bucket


def require_file(path: str | os.PathLike, flag: str) -> Any:
    """Returns the path, where a file can be put; one that is there will be replaced.

    Args:
      path: the file, whose folders need not exist.
      flag: the flag that gave it, for the message.

    Raises:
      InputError: a folder or a device is there, or nothing can be written.
    """
    target = as_path(path)
    if target.is_dir():
        raise InputError(f"{flag} = {path} is a folder; name a file, such as {target / 'output'}.")
    if target.exists() and not target.is_file():
        raise InputError(f"{flag} = {path} is a device, which no file can replace; name a file.")
    _require_room_below(target.parent, path, flag)
    return target


def require_folder(path: str | os.PathLike, flag: str) -> Any:
    """Returns the path, where a folder is that can be written into, or can be made.

    Args:
      path: the folder.
      flag: the flag that gave it, for the message.

    Raises:
      InputError: a file is there, or nothing can be written.
    """
    target = as_path(path)
    _require_room_below(target, path, flag)
    return target


def _require_room_below(folder: Any, path: str | os.PathLike, flag: str) -> None:
    """Makes and removes a file in a bucket, or a nameless one in the nearest folder that exists."""
    there = folder
    try:
        if in_bucket(folder):
            trial = folder / f"{TEMPORARY_MARK}{os.getpid()}"
            write_bytes(trial, b"")
            remove(trial)
            return
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise InputError(f"{flag} = {path} is not possible: {there} is a file. Change {flag}.")
        with tempfile.TemporaryFile(dir=there):
            pass
    except InputError:
        raise
    except Exception as e:  # TensorFlow, which opens buckets, has errors of its own.
        raise InputError(
            f"{flag} = {path} cannot be written: {getattr(e, 'strerror', None) or e} ({there}). "
            "Name a place that can be written."
        ) from e
