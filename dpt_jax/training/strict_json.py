"""JSON that any parser reads: what is not a number becomes null, arrays become lists."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def ready(value: Any) -> Any:
    """`value` in terms of dicts, lists, texts, finite numbers, booleans and None.

    NaN and infinities, which JSON does not have, become None; arrays become nested lists, bytes
    text, and whatever else JSON cannot hold its `str`.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {str(k): ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [ready(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((ready(v) for v in value), key=str)
    return value if value is None or isinstance(value, str | int) else str(value)


def dumps(value: Any, **kwargs: Any) -> str:
    """`json.dumps` of what `ready` makes of `value`."""
    return json.dumps(ready(value), allow_nan=False, **kwargs)
