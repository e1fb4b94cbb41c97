"""What `dpt sweep` says while points train: how each ended, and how far those are that run."""

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
        self._left = {point.name: list(job) for job in work for point in job}
        self._done = total - len(self._left)
        self._job = {point.name: number for number, job in enumerate(work) for point in job}
        self.failures = 0
        # The point that failed first with an error; it need not be read again.
        self._first_with: dict[str, str] = {}
        # As the logs are now, an earlier attempt's. No clock is asked: a file's time may lie behind
        # this machine's.
        logs = [folder.log(job[0]) for job in work]
        self._earlier = {log: _stamp(log) for log in logs if not in_bucket(log)}
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
        job = self._job[outcome.point]
        more = any(self._job[name] == job for name in self._left)
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
        told = set()
        for name, job in list(self._left.items()):
            if self._job[name] in told:
                continue
            log = self._folder.log(job[0])
            if in_bucket(log):
                return  # There a log comes when its attempt has ended.
            try:
                if _stamp(log) == self._earlier[log]:
                    continue  # Not started yet.
                with open(log, "rb") as file:
                    file.seek(max(0, log.stat().st_size - _TAIL))
                    steps = _STEP.findall(file.read().decode(errors="replace"))
            except OSError:
                continue  # Removed meanwhile, or not to be read.
            if steps:
                told.add(self._job[name])
                together = f" and {len(job) - 1} with it" if len(job) > 1 else ""
                yield f"{job[0].name}{together}: {steps[-1]}"

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._progress.close()


def _stamp(log: Any) -> tuple[int, int] | None:
    """What differs once something is written to a log: its time and size, None without one."""
    try:
        status = log.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


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
