"""The zip that `dpt evaluate --submission` writes for SuperGLUE's server."""

import json
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from dpt_jax.cli.console import say
from dpt_jax.data.tasks import parts
from dpt_jax.errors import InputError
from dpt_jax.files import atomic_write, fetched
from dpt_jax.paths import as_path
from dpt_jax.training.problem import TaskResult

# So that the same answers give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def require_superglue(task: Any, path: str) -> None:
    """Checks that every task has a file of its own in the zip, and that what is there is a zip.

    Args:
      task: a task or mixture.
      path: --submission.

    Raises:
      InputError: a task is none of SuperGLUE's, or two are the same one.
    """
    from dpt_jax.tasks.benchmark import BENCHMARKS, benchmark_of

    names = [one.name for one, _ in parts(task)]
    of = {name: benchmark_of(name) for name in names}
    for name, benchmark in of.items():
        if benchmark is None:
            raise InputError(
                f"--submission is for SuperGLUE's tasks ({', '.join(BENCHMARKS)}); {name!r} is "
                "none of them. --predictions=DIR writes the answers to any task."
            )
        if sum(other == benchmark for other in of.values()) > 1:
            raise InputError(
                f"--submission has one file for {benchmark.name}, but the mixture has two tasks of "
                f"it, one of them {name!r}."
            )
    _others(path, [])


def write(path: str, results: Sequence[TaskResult]) -> None:
    """Writes the answers into the zip; files of other tasks that are in it stay.

    Raises:
      InputError: what is there is no zip.
    """
    from dpt_jax.tasks import submission
    from dpt_jax.tasks.benchmark import benchmark_of

    made = {}
    for result in results:
        benchmark = benchmark_of(result.task)
        assert benchmark is not None
        lines, invalid = submission.lines(benchmark, result.predictions)
        made[submission.file_name(benchmark)] = "".join(json.dumps(line) + "\n" for line in lines)
        if invalid:
            say(
                f"{result.task}: {invalid} of {len(result.predictions)} answers are no label, and "
                "stand in the submission as the first one; --scoring=rank has none."
            )
    files = _others(path, made) | {name: text.encode() for name, text in made.items()}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, files[name])
    say(f"{path}: {', '.join(sorted(files))}")


def _others(path: str, made: Any) -> dict[str, bytes]:
    """The files of a zip that are not made anew."""
    if not as_path(path).exists():
        return {}
    try:
        with fetched(path) as copy, zipfile.ZipFile(copy) as archive:
            return {name: archive.read(name) for name in archive.namelist() if name not in made}
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as e:
        raise InputError(
            f"--submission = {path} is there, and is no zip file: {e}. Name another file."
        ) from e
