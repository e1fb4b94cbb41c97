"""A folder that a model is written to: whole or not at all, and refused before work is lost."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from dpt_jax.errors import InputError
from dpt_jax.files import atomic_folder

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not become that large there",
}


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, nbytes: int) -> Iterator[Path]:
    """`dpt_jax.files.atomic_folder` with errors that say what to do.

    Args:
      path: the folder to make; it must not exist, or be empty.
      nbytes: bytes that will be written into it.

    Yields:
      The temporary folder to write into.

    Raises:
      InputError: `path` holds something already, cannot be written to, or its disk is full.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(atomic_folder(path))
        except OSError as error:
            if error.errno is None:  # atomic_folder's own
                raise InputError(f"{error} Give a new folder, or remove this one first.") from error
            raise InputError(
                f"{path} cannot be made: {error}. Name a folder that can be written."
            ) from error
        free = shutil.disk_usage(folder).free
        if nbytes > free:
            raise InputError(
                f"{path} needs {nbytes / 1e9:.2f} GB, but its disk has {free / 1e9:.2f} GB "
                "free. Make room, or name a folder on another disk."
            )
        try:
            yield folder
            stack.close()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise InputError(
                    f"{path} was made by another process in the meantime, and is left as it is."
                ) from error
            if error.errno in _FULL:
                raise InputError(
                    f"{path} could not be written: {_FULL[error.errno]} ({nbytes / 1e9:.2f} GB are "
                    "needed). Nothing was left behind. Make room, or name a folder on another disk."
                ) from error
            raise
