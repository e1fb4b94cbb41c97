"""How far something long is: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_SECONDS_BETWEEN_LINES = 10


@contextlib.contextmanager
def told_while(
    tell: Callable[[float], object], seconds: float = _SECONDS_BETWEEN_LINES
) -> Iterator[None]:
    """Calls `tell` with the seconds that have passed, now and then while the block runs.

    Args:
      tell: called from a thread of its own.
      seconds: between two calls, and before the first.
    """
    began, ended = time.monotonic(), threading.Event()

    def work() -> None:
        while not ended.wait(seconds):
            tell(time.monotonic() - began)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Progress:
    """What is done of all, what else there is to say of it, and the time that is left."""

    def __init__(
        self,
        name: str,
        start: int = 0,
        *,
        unit: str = "",
        shown: Callable[[int], str] = str,
        lines: bool = True,
    ):
        """Starts the clock.

        Args:
          name: what is counted, as in "step".
          start: what was done before, which the rate leaves out.
          unit: what a rate is of, as in "steps"; without it none is shown.
          shown: how an amount is written.
          lines: whether `update` prints a line where there is no terminal, every ten seconds and
            at the end.
        """
        self._name, self._start, self._unit = name, start, unit
        self._shown, self._lines = shown, lines
        self._began = self._last_line = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[shown]}", markup=False),
                console=Console(stderr=True, markup=False, highlight=False),
            )
            self._task = self._bar.add_task(name, total=None, shown="")
            self._bar.start()

    def left(self, done: int, total: int) -> str:
        """The time that the rest takes at the mean rate; empty while there is none."""
        rate = self._rate(done)
        return f"{clock((total - done) / rate)} left" if rate else ""

    def _rate(self, done: int) -> float:
        return (done - self._start) / max(time.monotonic() - self._began, 1e-9)

    def update(self, done: int, total: int, text: str = "") -> None:
        """Shows how much is done of all, a text, and the time that is left."""
        amount = f"{self._shown(done)}/{self._shown(total)}"
        rate = f"{self._rate(done):.2f} {self._unit}/s" if self._unit else ""
        shown = "  ".join(filter(None, (amount, text, rate, self.left(done, total))))
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, shown=shown)
        elif self._lines:
            now = time.monotonic()
            if now - self._last_line >= _SECONDS_BETWEEN_LINES or done == total:
                self._last_line = now
                self.say(f"{self._name} {shown}")

    def note(self, done: int, total: int, text: str) -> None:
        """Shows a text that the next one replaces: on the bar, or as a line where there is none."""
        if self._bar is not None:
            shown = f"{self._shown(done)}/{self._shown(total)}  {text}"
            self._bar.update(self._task, completed=done, total=total, shown=shown)
        else:
            self.say(f"{self._name} {text}")

    def say(self, text: str) -> None:
        """Prints a line above the bar, or as it is where there is no bar."""
        if self._bar is not None:
            self._bar.console.print(text, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, or hours, minutes and seconds: `1:02`, `1:15:00`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
