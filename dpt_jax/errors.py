"""The one error type for input that a person can correct."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: names the thing, its value, and the flag or binding to change.

    The command line prints its message without a traceback and exits with status 2.
    """


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns " Nearest: a, b." for the known names most like `name`, or "" when none is alike."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" Nearest: {', '.join(close)}." if close else ""
