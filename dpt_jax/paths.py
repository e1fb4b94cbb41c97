"""The path that a text names: in this machine's file system, or in a bucket."""

import os
import pathlib
from typing import Any

from dpt_jax.errors import InputError


def as_path(path: str | os.PathLike) -> Any:
    """The path as an object with pathlib's methods.

    Args:
      path: a path of this machine, where `~` is the home folder, or one that begins like
        `gs://bucket/`, which `etils.epath` opens.

    Returns:
      A `pathlib.Path`, or an `epath.Path`, which has the methods that both have in common: among
      those missing are `rglob`, `absolute`, and the modes of `open` but reading and writing.

    Raises:
      InputError: for a kind of bucket that `etils.epath` does not know.
    """
    text = os.fspath(path)
    if "://" not in text:
        return pathlib.Path(text).expanduser()
    # Here, since few runs are kept in buckets.
    from etils import epath

    try:
        return epath.Path(text)
    except KeyError as e:
        raise InputError(
            f"{text} begins with {text.partition('://')[0]}://, which cannot be opened; a bucket's "
            "path begins with gs:// or s3://."
        ) from e


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket, where nothing can be renamed, appended to or locked."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike) -> Any:
    """The path, independent of the working directory."""
    found = as_path(path)
    return found if in_bucket(found) else found.absolute()
