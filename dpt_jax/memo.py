"""Values that are computed once in a process for equal arguments."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def memoized(function: _Function) -> _Function:
    """Keeps the last 16 values of a function of models.

    A prompt method of a user's own may have fields that cannot be hashed, such as an array. A model
    with one is no key: its values are computed each time.

    Args:
      function: of positional arguments; what it returns must not be changed.
    """
    kept = functools.lru_cache(maxsize=16)(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            hash(args)
        except TypeError:
            return function(*args)
        return kept(*args)

    return call  # type: ignore[return-value]
