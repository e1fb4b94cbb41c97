"""The path that a text names: in this machine's file system, or in a bucket."""

import importlib.util
import os
import pathlib
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.quiet_import import quiet_import

# What epath opens each kind of bucket with.
_OPENED_BY = {
    "gs": "tensorflow",
    "s3": "s3fs",
    "az": "adlfs",
    "hf": "huggingface_hub",
}


def as_path(path: str | os.PathLike) -> Any:
    """The path as an object with pathlib's methods.

    Args:
      path: a path of this machine, where `~` is the home folder, or one that begins like
        `gs://bucket/`, which `etils.epath` opens.

    Returns:
      A `pathlib.Path`, or an `epath.Path`, which has the methods that both have in common: among
      those missing are `rglob`, `absolute`, and the modes of `open` but reading and writing.

    Raises:
      InputError: for a home folder or a kind of bucket that is not known, or one whose library is
        not installed.
    """
    text = os.fspath(path)
    if "://" not in text:
        try:
            return pathlib.Path(text).expanduser()
        except RuntimeError as e:
            home = text.partition("/")[0]
            raise InputError(
                f"{text} begins with a home folder, {home}, which is not known here. Write that "
                f"folder's path, or ./{text} for one that is called {home}."
            ) from e
    scheme = text.partition("://")[0]
    if scheme not in _OPENED_BY:
        raise InputError(
            f"{text} begins with {scheme}://, which cannot be opened; a bucket's path begins with "
            f"{', '.join(f'{name}://' for name in _OPENED_BY)}."
        )
    library = _OPENED_BY[scheme]
    if importlib.util.find_spec(library) is None:
        raise InputError(f"{text} needs the package {library}: pip install {library}")
    if library == "tensorflow":
        quiet_import(library)
    else:
        # Where there is TensorFlow, epath would ask it, and it knows Google's buckets alone.
        os.environ.setdefault("EPATH_USE_TF", "false")
    # Here, since few runs are kept in buckets.
    from etils import epath

    return epath.Path(text)


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket, where nothing can be renamed, appended to or locked."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike) -> Any:
    """The path, independent of the working directory."""
    found = as_path(path)
    return found if in_bucket(found) else found.absolute()
