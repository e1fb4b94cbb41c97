"""A prompt or prefix method in a run's identity."""

import dataclasses
from typing import Any

from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import SoftPrompt


def describe_method(method: SoftPrompt | Prefix | None) -> dict[str, Any] | None:
    """The method and its sizes; not its initializers, which matter only at the start."""
    if method is None:
        return None
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    sizes: dict[str, Any] = {k: v for k, v in fields.items() if isinstance(v, int | float | str)}
    sizes.pop("name", None)
    if isinstance(method, Prefix):
        sizes["stacks"] = list(method.stacks)
    return {"method": type(method).__name__} | sizes
