"""The recipes of `gin_configs/recipes` by name, read without gin.

A recipe is a gin file of macros (`OPTIMIZER`, `LEARNING_RATE_PEAK`, ...) and of bindings of the
functions that they name. This reads that much of gin; `runs/prompt_train.gin` has what a recipe
leaves open.
"""

import ast
import functools
import importlib
import importlib.resources
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import optax

from dpt_jax import gin_text
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.training import schedules
from dpt_jax.training.config import is_number

# A function of a learning rate or a schedule, or what such a function has made.
Optimizer: TypeAlias = Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation
# The peak of a recipe's schedule, or a schedule.
Rate: TypeAlias = float | optax.Schedule

_BASE = "runs/prompt_train.gin"
_FOLDER = "recipes"
# What a recipe decides, of the settings of a run; a gin macro sets each.
FIELDS = (
    "balanced_batches",
    "batch_size",
    "clip_norm",
    "epochs",
    "eval_period",
    "learning_rate",
    "optimizer",
    "overlength",
    "task_feature_lengths",
    "train_steps",
)
_IMPORT = re.compile(r"^(?:from (?P<package>[\w.]+) )?import (?P<module>[\w.]+)$", re.MULTILINE)


def names() -> list[str]:
    """The names of the recipes for a prompt: the files that say how long to train."""
    folder = importlib.resources.files("dpt_jax.gin_configs") / _FOLDER
    return sorted(
        file.name.removesuffix(".gin")
        for file in folder.iterdir()
        if file.name.endswith(".gin")
        and gin_text.bindings(file.read_text()).keys() & {"EPOCHS", "TRAIN_STEPS"}
    )


def read(name: str, learning_rate_peak: float | None = None) -> dict[str, Any]:
    """Reads a recipe.

    Args:
      name: "paper", "released", or another file of `gin_configs/recipes`, without its ending.
      learning_rate_peak: takes the place of the recipe's `LEARNING_RATE_PEAK`.

    Returns:
      Fields of `dpt_jax.training.config.RunConfig`, those in `FIELDS`.

    Raises:
      InputError: when there is no such recipe.
    """
    known = names()
    if name not in known:
        raise InputError(
            f"There is no recipe {name!r}; there are {', '.join(known)}."
            f"{nearest_names(str(name), known)} Set recipe= to one of them."
        )
    root = importlib.resources.files("dpt_jax.gin_configs")
    texts = [(root / _BASE).read_text(), (root / f"{_FOLDER}/{name}.gin").read_text()]
    bound: dict[str, str] = {}
    modules: dict[str, str] = {}
    for text in texts:
        bound |= gin_text.bindings(text)
        for found in _IMPORT.finditer(text):
            package, module = found["package"], found["module"]
            modules[module] = f"{package}.{module}" if package else module
    if learning_rate_peak is not None:
        bound["LEARNING_RATE_PEAK"] = repr(learning_rate_peak)
    return {field: _value(bound[field.upper()], bound, modules) for field in FIELDS}


def starts_measured(name: str) -> bool:
    """Whether a recipe's prompt starts at a norm that is measured on the model."""
    file = importlib.resources.files("dpt_jax.gin_configs") / f"{_FOLDER}/{name}.gin"
    return "_measured.gin" in file.read_text()


def _value(text: str, bound: Mapping[str, str], modules: Mapping[str, str]) -> Any:
    """What a gin value stands for: a literal, a macro, or a function with its bindings."""
    if text.startswith("%"):
        return _value(bound[text[1:]], bound, modules)
    if not text.startswith("@"):
        return ast.literal_eval(text)
    module, _, function = text[1:].rpartition(".")
    arguments = {
        name.rpartition(".")[2]: _value(value, bound, modules)
        for name, value in bound.items()
        if name.rpartition(".")[0] == text[1:]
    }
    return functools.partial(
        getattr(importlib.import_module(modules[module]), function), **arguments
    )


def with_changes(
    name: str, optimizer: Optimizer | None = None, learning_rate: Rate | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe, with another optimizer or learning rate where one is given.

    Args:
      name: see `read`.
      optimizer: see `Optimizer`; None is the recipe's.
      learning_rate: see `Rate`; None is the recipe's.

    Returns:
      The fields of `read`; and what tells this optimizer and schedule from others, flat JSON.

    Raises:
      InputError: when there is no such recipe, or optimizer and learning rate do not go together.
    """
    peak = None
    if is_number(learning_rate):
        peak = float(learning_rate)
    elif learning_rate is not None and not callable(learning_rate):
        raise InputError(
            f"learning_rate is {learning_rate!r}; it must be a finite number, or an optax schedule."
        )
    settings = read(name, peak)
    if isinstance(optimizer, optax.GradientTransformation):
        if learning_rate is not None:
            raise InputError(
                "optimizer is made already, with a learning rate of its own. Leave out "
                "learning_rate, or give the function that makes it, such as optax.adamw."
            )
        made = optimizer
        settings["optimizer"] = lambda schedule: made
        settings["learning_rate"] = functools.partial(schedules.constant, peak=0.0)
        return settings, {"optimizer": "made by the caller"}
    if optimizer is not None:
        settings["optimizer"] = optimizer
    if callable(learning_rate):
        schedule = learning_rate
        settings["learning_rate"] = lambda train_steps: schedule
        rate = _described(schedule)
    else:
        rate = _described(settings["learning_rate"])
    return settings, {"optimizer": _described(settings["optimizer"]), "learning_rate": rate}


def _described(function: Any) -> str:
    """A function's name, with the arguments that are bound; not what it closes over."""
    if isinstance(function, functools.partial):
        bound = ", ".join(f"{name}={value!r}" for name, value in sorted(function.keywords.items()))
        return f"{_described(function.func)}({bound})"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}".lstrip(".")
