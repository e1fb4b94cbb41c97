"""A run's settings as the gin text that `dpt predict` and `dpt evaluate` read."""

import dataclasses
import os
from typing import Any

from dpt_jax.models import T5Config
from dpt_jax.paths import absolute
from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import SoftPrompt
from dpt_jax.training.config import RunConfig

# What Python says in functions, and gin would have to name.
_FUNCTIONS = ("optimizer", "learning_rate")
# What Flax adds to every module.
_OF_FLAX = ("name", "parent")
_HEADER = """\
# Written by dpt_jax.PromptedT5.fit, for dpt predict and dpt evaluate (which takes a task). The
# optimizer, the learning rate and the first values were Python's; run.json names them.
from __gin__ import dynamic_registration
from dpt_jax import models
from dpt_jax.training import config
"""


def as_gin(settings: RunConfig) -> str:
    """The text, without the optimizer, the schedule and initializers.

    Args:
      settings: those of a run whose prompt or prefix is one of the package's.

    Returns:
      Nothing where the method is one of somebody else, which only its own module can name.
    """
    imports, macros, lines = "", [], []
    for field in dataclasses.fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if name in _FUNCTIONS:
            continue
        if isinstance(value, SoftPrompt | Prefix):
            room = "prompts" if isinstance(value, SoftPrompt) else "prefixes"
            if not type(value).__module__.startswith(f"dpt_jax.{room}."):
                return ""
            imports += f"from dpt_jax import {room}\n"
            text = f"@{room}.{type(value).__name__}()"
            lines += _arguments(f"{room}.{type(value).__name__}", value)
        elif isinstance(value, T5Config):
            text = "@models.T5Config()"
            lines += _arguments("models.T5Config", value)
        elif name == "initial_checkpoint_path":
            text = repr(os.fspath(absolute(value)))
        else:
            text = repr(value)
        flag = settings.flag_of(name)
        if flag == name.upper():
            macros.append(f"{flag} = {text}")
            text = f"%{flag}"
        lines.append(f"config.RunConfig.{name} = {text}")
    return "\n".join([_HEADER + imports, *macros, "", *lines, ""])


def _arguments(selector: str, configured: Any) -> list[str]:
    """A binding for every field that is plain; a dtype is its name."""
    values = {f.name: getattr(configured, f.name) for f in dataclasses.fields(configured)}
    values |= {"dtype": values["dtype"].name} if "dtype" in values else {}
    return [
        f"{selector}.{name} = {value!r}"
        for name, value in values.items()
        if name not in _OF_FLAX and isinstance(value, int | float | str | tuple)
    ]
