"""Where a command will write is tried before its work begins, so that no work is lost there."""

import pathlib
import tempfile

from dpt_jax.errors import InputError


def require_file(path: str | pathlib.Path, flag: str) -> pathlib.Path:
    """Returns the path, where a file can be put; one that is there will be replaced.

    Args:
      path: the file, whose folders need not exist.
      flag: the flag that gave it, for the message.

    Raises:
      InputError: a folder or a device is there, or nothing can be written.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise InputError(f"{flag} = {path} is a folder; name a file, such as {path / 'output'}.")
    if path.exists() and not path.is_file():
        raise InputError(f"{flag} = {path} is a device, which no file can replace; name a file.")
    _require_room_below(path.parent, path, flag)
    return path


def require_folder(path: str | pathlib.Path, flag: str) -> pathlib.Path:
    """Returns the path, where a folder is that can be written into, or can be made.

    Args:
      path: the folder.
      flag: the flag that gave it, for the message.

    Raises:
      InputError: a file is there, or nothing can be written.
    """
    path = pathlib.Path(path)
    _require_room_below(path, path, flag)
    return path


def _require_room_below(folder: pathlib.Path, path: pathlib.Path, flag: str) -> None:
    """Makes and removes a nameless file in the nearest folder that exists."""
    there = folder
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise InputError(f"{flag} = {path} is not possible: {there} is a file. Change {flag}.")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as e:
        raise InputError(
            f"{flag} = {path} cannot be written: {e.strerror or e} ({there}). Name a place that "
            "can be written."
        ) from e
