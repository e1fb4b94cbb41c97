"""A sweep's folder: what the sweep is, one run folder per point, and the gathered results.

sweep.json        the axes, the report and every point's settings
points/<point>/   the run folder of a point
failures/         <point>.json for a point whose last attempt failed
logs/             <point>.log, what the point printed
results.jsonl     one object per point; results.csv the same without curves
"""

import csv
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dpt_jax import run_files
from dpt_jax.analysis.results import CSV, RESULTS, SWEEP, read_results, read_run
from dpt_jax.errors import InputError
from dpt_jax.files import (
    atomic_write,
    entries,
    json_dumps,
    json_ready,
    write_json_lines,
    write_text,
)
from dpt_jax.locks import Lock
from dpt_jax.paths import as_path
from dpt_jax.sweeps.definition import Point, Sweep

# What curves and spectra need is no cell of a table.
_NOT_IN_CSV = ("axes", "curves", "singular_values", "metrics")


class SweepFolder:
    """The folder of one sweep, from which its results can be gathered at any time."""

    def __init__(
        self, path: str | os.PathLike, sweep: Sweep, points: Sequence[Point], command: str = ""
    ):
        """Looks at what is there; writes nothing.

        Args:
          path: the folder.
          sweep: the sweep.
          points: all of its points.
          command: the command line that runs it, for reports.

        Raises:
          InputError: when it holds another sweep, with what differs.
        """
        self.path, self.sweep, self.points = as_path(path), sweep, list(points)
        self.report = sweep.report.resolved(list(sweep.axes))
        self._done: dict[str, dict[str, Any]] = {}
        self._lock: Lock | None = None
        self._identity = json.loads(
            json_dumps(
                {
                    "name": sweep.name,
                    "command": command,
                    "axes": sweep.axes,
                    "report": dataclasses.asdict(self.report),
                    "points": {point.name: point.settings() for point in points},
                }
            )
        )
        self._check()

    def _check(self) -> None:
        path = self.path / SWEEP
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; give another --output.")
        if not path.exists():
            if any(p.name[0] != "." for p in entries(self.path)):
                raise InputError(
                    f"{self.path} is not empty and has no {SWEEP}, so it is no sweep's folder. "
                    "Give another --output."
                )
            return
        saved, now = _read_json(path), self._identity
        trained = [name for name in saved["points"] if run_files.holds_training(self._folder(name))]
        attempted = any(entries(self.path / name) for name in ("points", "failures", "logs"))
        if attempted and not trained:
            return  # What came to nothing, as all does after a typing error, guards nothing.
        # Where nothing was attempted, the commands that were printed may be about to run elsewhere.
        guarded = trained or list(saved["points"])
        printed = "" if attempted else ", or commands were printed that will make them"
        advice = "Give another --output for this sweep; nothing was changed."
        if saved.get("name") != now["name"]:
            raise InputError(
                f"{self.path} holds the sweep {saved.get('name')!r}, not {now['name']!r}. {advice}"
            )
        for name in guarded:
            settings = saved["points"][name]
            if name not in now["points"]:
                raise InputError(
                    f"{self.path} has results of the point {name}, which this sweep {now['name']} "
                    f"does not have{printed}. {advice} To run a part of a sweep, use --only."
                )
            if settings != now["points"][name]:
                differing = _differences(settings, now["points"][name])
                raise InputError(
                    f"{self.path} has results of the point {name} with other settings{printed}:\n"
                    + "\n".join(f"  {line}" for line in differing)
                    + f"\n{advice}"
                )
        for row in read_results(self.path) if (self.path / RESULTS).exists() else ():
            if row["sweep"] != now["name"] or row["point"] not in saved["points"]:
                raise InputError(
                    f"{self.path / RESULTS} is the results file of another sweep: it has the point "
                    f"{row['point']} of {row['sweep']}. {advice}"
                )

    def open(self) -> None:
        """Makes the folder, and keeps other sweeps out of it until `close`.

        Raises:
          InputError: when another process runs a sweep in it.
        """
        self._lock = Lock(
            self.path / run_files.LOCK,
            "--output",
            f"Another dpt sweep is running in {self.path}, or a point of one that was killed is "
            "still saving",
        )
        try:
            # Once more: another sweep may have held the lock, and run in the meantime.
            self._check()
            write_text(self.path / SWEEP, json.dumps(self._identity, indent=2) + "\n")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets other sweeps in, once the processes that were given the lock have ended as well."""
        if self._lock is not None:
            self._lock.close()

    @property
    def lock_handles(self) -> tuple[int, ...]:
        """What processes are given that are to hold the lock as well."""
        handle = None if self._lock is None else self._lock.handle
        return () if handle is None else (handle,)

    def run_folder(self, point: Point) -> Any:
        """The MODEL_DIR of a point."""
        return self._folder(point.name)

    def _folder(self, name: str) -> Any:
        return self.path / "points" / name

    def log(self, point: Point) -> Any:
        """What a point printed."""
        return self.path / "logs" / f"{point.name}.log"

    def _failure(self, point: Point) -> Any:
        return self.path / "failures" / f"{point.name}.json"

    def fail(self, point: Point, error: str) -> None:
        """Takes note that a point failed; its results so far stay in its run folder."""
        write_text(self._failure(point), json.dumps({"error": error}) + "\n")

    def forget_failure(self, point: Point) -> None:
        """Before another attempt."""
        self._failure(point).unlink(missing_ok=True)

    def row(self, point: Point) -> dict[str, Any]:
        """The result of a point as it stands: `status` is done, failed, unfinished or not run."""
        if point.name in self._done:
            return self._done[point.name]
        row = {
            "sweep": self.sweep.name,
            "point": point.name,
            "axes": json_ready(point.axes),
            **read_run(self.run_folder(point), self.report.metric),
        }
        if row["status"] == "done":
            self._done[point.name] = row
        elif self._failure(point).exists():
            row |= {"status": "failed", "error": _read_json(self._failure(point))["error"]}
        return row

    def write(self) -> list[dict[str, Any]]:
        """Gathers the results of all points into `results.jsonl` and `results.csv`."""
        rows = [self.row(point) for point in self.points]
        write_json_lines(self.path / RESULTS, rows)
        flat = [_flat(row) for row in rows]
        columns = list(dict.fromkeys(name for row in flat for name in row))
        with atomic_write(self.path / CSV) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(flat)
        return rows


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"sweep": row["sweep"], "point": row["point"], **row["axes"]}
    flat |= {k: v for k, v in row.items() if k not in _NOT_IN_CSV and k not in flat}
    for task, metrics in (row.get("metrics") or {}).items():
        flat |= {f"{task}/{name}": value for name, value in metrics.items()}
    return {name: "" if value is None else value for name, value in flat.items()}


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    lines = []
    if saved["gin_files"] != now["gin_files"]:
        lines.append(f"gin_files: saved {saved['gin_files']}, now {now['gin_files']}")
    before, after = (dict(_split(b) for b in one["bindings"]) for one in (saved, now))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            lines.append(f"{name}: saved {before.get(name)}, now {after.get(name)}")
    return lines or ["the same, in another order"]


def _split(binding: str) -> tuple[str, str]:
    name, _, value = binding.partition("=")
    return name.strip(), value.strip()


def _read_json(path: os.PathLike) -> Any:
    return run_files.read_json(path, "Delete it, or give another --output.")
