"""The errors that a person can do something about; the command line prints them as one message."""

import difflib
import signal
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: names the thing, its value, and the flag or binding to change.

    The command line prints its message without a traceback and exits with status 2.
    """


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; names the step, the rate and the last good checkpoint."""


class Stopped(Exception):
    """A signal asked a run to stop; the state was saved first."""

    def __init__(self, signum: int, step: int):
        """Takes the signal's number and the step that was saved."""
        super().__init__(f"stopped by {signal.Signals(signum).name} after saving step {step}")
        self.signum = signum


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns " Nearest: a, b." for the known names most like `name`, or "" when none is alike."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" Nearest: {', '.join(close)}." if close else ""
