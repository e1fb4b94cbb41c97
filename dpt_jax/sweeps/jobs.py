"""What launchers have in common: jobs of points, shell commands, and how a point's end is told.

A launcher is called with jobs, each a list of points that may be trained together, and reports
every point's `Outcome` as it ends. It does not raise for a point that fails.
"""

import re
import shlex
import signal
from collections.abc import Callable, Sequence
from typing import Any

from dpt_jax.errors import InputError, nearest_names
from dpt_jax.sweeps.definition import Point
from dpt_jax.sweeps.folder import SweepFolder
from dpt_jax.sweeps.worker import OUT_OF_MEMORY, Outcome

OnOutcome = Callable[[Outcome], None]

LAUNCHERS = ("local", "ray", "commands")
# What points may differ in and still be trained together: of data, only the draw of its examples.
_TOGETHER = (
    "RANDOM_SEED",
    "LEARNING_RATE_PEAK",
    "BOTTLENECK",
    "SHOTS",
    "PERCENT",
    "DRAW_SEED",
)
_DRAW = re.compile(r"(_[kp]\d+_s)\d+(?='$)")


def require_launcher(name: str) -> None:
    """Checks that a launcher exists and is installed.

    Raises:
      InputError: when it does not, or its package is missing, with how to install it.
    """
    if name not in LAUNCHERS:
        raise InputError(
            f"--launcher is {name!r}; it takes {', '.join(LAUNCHERS)}."
            f"{nearest_names(name, LAUNCHERS)}"
        )
    if name == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as e:
            raise InputError(
                "--launcher=ray needs Ray, which is not installed: pip install 'dpt-jax[ray]'. "
                "--launcher=local needs nothing more."
            ) from e


def group(points: Sequence[Point], at_least: int = 1) -> list[list[Point]]:
    """Puts points that may be trained together into one job.

    Args:
      points: the points.
      at_least: how many jobs there is work for side by side; where there would be fewer, the
        largest are halved.
    """
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(_alike(point), []).append(point)
    jobs = list(groups.values())
    while len(jobs) < at_least and len(largest := max(jobs, key=len, default=[])) > 1:
        half = len(largest) // 2
        where = jobs.index(largest)
        jobs[where : where + 1] = [largest[:half], largest[half:]]
    return jobs


def _alike(point: Point) -> str:
    """What points of one job have in common."""
    kept = []
    for binding in point.bindings:
        name, _, value = (part.strip() for part in binding.partition("="))
        if name == "MIXTURE_OR_TASK_NAME":
            value = _DRAW.sub(r"\1", value)
        if name not in _TOGETHER:
            kept.append((name, value))
    return repr((point.gin_files, sorted(kept)))


def job_of(
    points: Sequence[Point],
    folder: SweepFolder,
    search_paths: Sequence[str],
    members_at_once: int | None,
) -> dict[str, Any]:
    """A job for `worker.train_points`, ready for JSON."""
    return {
        "points": [
            {
                "name": point.name,
                "gin_files": list(point.gin_files),
                "bindings": list(point.bindings),
                "model_dir": str(folder.run_folder(point)),
                "log": str(folder.log(point)),
            }
            for point in points
        ],
        "search_paths": list(search_paths),
        "members_at_once": members_at_once,
    }


def command(point: Point, folder: SweepFolder, search_paths: Sequence[str]) -> str:
    """The shell command that trains a point."""
    words = ["dpt", "train", *(f"--gin_search_paths={path}" for path in search_paths)]
    words += [f"--gin_file={file}" for file in point.gin_files]
    for binding in (*point.bindings, f"MODEL_DIR = {str(folder.run_folder(point))!r}"):
        name, _, value = (part.strip() for part in binding.partition("="))
        words.append(f"--gin.{name}={value}")
    return shlex.join(words)


def died(code: int) -> str:
    """What to say of a process that ended with this status without an answer."""
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return (
            "The process was killed (SIGKILL), as Linux does with one that takes more memory than "
            f"there is. {OUT_OF_MEMORY}"
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    advice = f" If that was for want of memory: {OUT_OF_MEMORY}" if code == -signal.SIGABRT else ""
    return f"The process ended {how}; its log may say why.{advice}"
