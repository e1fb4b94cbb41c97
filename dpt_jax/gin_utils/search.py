"""Where gin files are found and how they are opened: disks, packages, buckets."""

import contextlib
import functools
import io
import logging
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import gin
from gin.resource_reader import system_path_file_exists as _gin_in_package

from dpt_jax.gin_utils.retired import as_now
from dpt_jax.paths import as_path, in_bucket

# What a gin file imports that brings TensorFlow, and TensorFlow's chatter at start-up.
_BRINGS_TENSORFLOW = re.compile(
    r"^\s*(?:from|import)\s+(?:dpt_jax\.tasks|seqio|tensorflow)\b", re.MULTILINE
)


def gin_configs() -> pathlib.Path:
    """The folder of the gin files that come with the package."""
    return pathlib.Path(str(resources.files("dpt_jax.gin_configs")))


def look_in(folders: Sequence[str]) -> None:
    """Has gin look in the working directory, in `folders`, and among the package's own files.

    What it reads there passes through the table of what earlier versions wrote.
    """
    gin.config._LOCATION_PREFIXES[:] = ["", *folders, str(gin_configs())]
    pass_by_plain_folders()
    gin.config._FILE_READERS[:] = [
        (_reader(read), exists)
        for read, exists in gin.config._FILE_READERS
        if exists is not _is_in_bucket
    ]
    gin.config._FILE_READERS.append((_reader(_open_in_bucket), _is_in_bucket))


def pass_by_plain_folders() -> None:
    """Has gin look for `models/demo.gin` elsewhere, too, where the working directory has `models`.

    Gin takes any folder of the working directory for a package, and fails on one without
    `__init__.py`: on `runs`, where runs are kept, for `runs/prompt_train.gin`.
    """
    gin.config._FILE_READERS[:] = [
        (read, _in_package if exists is _gin_in_package else exists)
        for read, exists in gin.config._FILE_READERS
    ]


def _in_package(path: str) -> bool:
    """Whether gin finds the file in an importable package."""
    try:
        return _gin_in_package(path)
    except TypeError:
        return False


def import_seqio() -> None:
    """Imports SeqIO and TensorFlow before a gin file does, without what they print."""
    from dpt_jax.data import tasks

    tasks.import_seqio()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A block in which gin does not log every folder that lacks a file which a later one has."""

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Path not found")

    logging.getLogger().addFilter(keep)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(keep)


def _reader(read: Callable[[str], Any]) -> Callable[[str], io.StringIO]:
    """A reader of gin files that gives what earlier versions wrote as it is written now."""
    original = getattr(read, "__wrapped__", read)

    @functools.wraps(original)
    def reader(path: str) -> io.StringIO:
        with original(path) as file:
            text = as_now(path, file.read())
        # Gin imports what stands in a file after it has read it; here included files pass, too.
        if _BRINGS_TENSORFLOW.search(text):
            import_seqio()
        replaced = io.StringIO(text)
        replaced.name = path  # For gin's messages.
        return replaced

    return reader


def _is_in_bucket(path: str) -> bool:
    if not in_bucket(path):
        return False
    import_seqio()  # TensorFlow opens buckets.
    return as_path(path).exists()


def _open_in_bucket(path: str) -> io.StringIO:
    return io.StringIO(as_path(path).read_text())
