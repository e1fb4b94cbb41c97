"""What `dpt sweep` says while points train: how each ended, and how far those are that run."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dpt_jax.paths import in_bucket
from dpt_jax.progress import Progress, clock

# A line of `Progress` in a point's log, which tells of all that train together with it.
_STEP = re.compile(r"^step \d+/\d+.*", re.MULTILINE)
_TAIL = 4096


class SweepProgress:
    """The lines and the bar of one sweep.

    Attributes:
      failures: how many points have failed so far.
    """

    def __init__(self, folder: Any, work: Sequence[Sequence[Any]], total: int):
        """Starts the clock.

        Args:
          folder: the `SweepFolder`.
          work: the jobs, each a list of points that may train together.
          total: all points, those that are done already among them.
        """
        self._folder, self._total = folder, total
        self._left = {point.name: point for job in work for point in job}
        self._done = total - len(self._left)
        # The names of the points that may train together with one, itself among them.
        self._job = {point.name: [other.name for other in job] for job in work for point in job}
        self.failures = 0
        # The point that failed first with an error; it need not be read again.
        self._first_with: dict[str, str] = {}
        # So much of each log is an earlier attempt's.
        self._earlier = {name: _size(folder.log(point)) for name, point in self._left.items()}
        # Every point has a line of its own.
        self._progress = Progress(folder.sweep.name, self._done, lines=False)
        self._progress.update(self._done, total)

    def say(self, text: str) -> None:
        """Prints a line."""
        self._progress.say(text)

    def ended(self, outcome: Any, value: float | None) -> None:
        """Tells how a point ended.

        Points that train together end together. The time that is left is told with the last of
        them, when the rate is known.

        Args:
          outcome: the worker's `Outcome`, "done" or "failed".
          value: the point's score.
        """
        del self._left[outcome.point]
        self._done += 1
        self.failures += outcome.status == "failed"
        failed = f"{self.failures} failed" if self.failures else ""
        self._progress.update(self._done, self._total, failed)
        more = any(name in self._left for name in self._job[outcome.point])
        left = "" if more else self._progress.left(self._done, self._total)
        so_far = ", ".join(filter(None, (failed, left)))
        text = f"[{self._done}/{self._total}] {outcome.point}: "
        first = self._first_with.setdefault(outcome.error, outcome.point)
        if outcome.status == "failed" and first != outcome.point:
            text += f"failed as {first} did"
        else:
            text += _ended(outcome, value, self._folder.report.scale)
        self.say(f"{text} ({so_far})" if so_far else text)

    def running(self, seconds: float) -> None:
        """Tells how far the points are that train at the moment.

        Args:
          seconds: since the sweep began.
        """
        shown = list(self._running())
        text = "; ".join(shown) or "running"
        self._progress.note(self._done, self._total, f"{clock(seconds)}  {text}")

    def _running(self) -> Iterator[str]:
        left = dict(self._left)
        steps = {name: step for name, point in left.items() if (step := self._step(point))}
        for name, step in steps.items():
            first, *others = self._job[name]
            together = ""
            if name == first:
                silent = sum(other in left and other not in steps for other in others)
                together = f" and {silent} with it" if silent else ""
            yield f"{name}{together}: {step}"

    def _step(self, point: Any) -> str | None:
        """The last step that a point's log tells of this attempt."""
        log = self._folder.log(point)
        if in_bucket(log):
            return None  # There a log comes when its attempt has ended.
        try:
            with open(log, "rb") as file:
                size, earlier = file.seek(0, os.SEEK_END), self._earlier[point.name]
                # A shorter log is one that was begun anew.
                file.seek(max(earlier if earlier <= size else 0, size - _TAIL))
                steps = _STEP.findall(file.read().decode(errors="replace"))
        except OSError:
            return None  # Not there yet, or not to be read.
        return steps[-1] if steps else None

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._progress.close()


def _size(log: Any) -> int:
    """The bytes of a log, 0 without one."""
    if in_bucket(log):
        return 0
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _ended(outcome: Any, value: float | None, scale: float) -> str:
    """How a point ended, in words."""
    from dpt_jax.analysis import tables

    if outcome.status == "failed":
        return f"failed: {tables.shortened(outcome.error)}"
    text = "no score" if value is None else f"{value * scale:.2f}"
    text += f", {outcome.seconds:.0f} s"
    if outcome.together > 1:
        text += f", one of {outcome.together} trained together"
    return text
