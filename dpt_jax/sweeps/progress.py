"""How far a sweep is: a bar on a terminal, a line a point elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dpt_jax.analysis import tables
from dpt_jax.sweeps.definition import Point
from dpt_jax.sweeps.folder import SweepFolder
from dpt_jax.sweeps.worker import Outcome


class SweepProgress:
    """Points done of all, those that failed, and the time that is left at the pace so far."""

    def __init__(self, folder: SweepFolder, total: int, done: int, work: Sequence[list[Point]]):
        self._folder, self._total, self._done = folder, total, done
        self._failed, self._started, self._began = 0, done, time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(
                folder.sweep.name, total=total, completed=done, shown=""
            )
            self._bar.start()
        together = sum(len(job) for job in work if len(job) > 1)
        text = f"{folder.sweep.name}: {total} points, {done} of them done before"
        if together:
            text += f"; {together} may be trained together, {len(work)} jobs in all"
        self._say(f"{text}. Logs are in {folder.path / 'logs'}")

    def ended(self, outcome: Outcome, row: Mapping[str, Any]) -> None:
        """Takes note of a point."""
        if outcome.status == "stopped":
            self._say(f"{outcome.point}: stopped, to be continued")
            return
        self._done += 1
        self._failed += outcome.status == "failed"
        elapsed = time.monotonic() - self._began
        left = elapsed / (self._done - self._started) * (self._total - self._done)
        shown = f"{self._failed} failed, " if self._failed else ""
        shown += f"{elapsed:.0f} s, about {left:.0f} s left"
        if outcome.status == "failed":
            text = f"failed: {tables.shortened(outcome.error)}"
        else:
            value = row["value"]
            text = "no score" if value is None else f"{value * self._folder.report.scale:.2f}"
            text += f", {outcome.seconds:.0f} s"
            if outcome.together > 1:
                text += f", one of {outcome.together} trained together"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, shown=shown)
            self._say(f"{outcome.point}: {text}")
        else:
            self._say(f"[{self._done}/{self._total}] {outcome.point}: {text} ({shown})")

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
