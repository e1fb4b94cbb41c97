"""Objects made of the parsed configuration, and the configuration as text."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import gin

from dpt_jax import gin_text
from dpt_jax.errors import InputError
from dpt_jax.gin_utils.messages import ADD_RUN_FILE

T = TypeVar("T")


def build(configurable: Callable[..., T], **overrides: Any) -> T:
    """Calls `configurable` with the arguments that gin binds to it, and with `overrides`.

    Raises:
      InputError: when a required argument is bound nowhere, or a value is refused.
    """
    name = configurable.__name__
    try:
        bound = gin.get_configurable(configurable)
    except ValueError as e:
        # None of the files imports its module.
        raise InputError(f"Nothing sets the fields of {name}. {_remedy(name)}") from e
    try:
        return bound(**overrides)
    except (TypeError, ValueError, RuntimeError) as e:
        missing = re.search(r"No values supplied by Gin or caller for arguments: \[(.*)\]", str(e))
        if missing:
            raise InputError(f"Nothing sets {missing.group(1)} of {name}. {_remedy(name)}") from e
        # Gin appends where it was when it failed, which matters only where the message does not.
        message, _, where = str(e).strip().partition("\n  In call to configurable ")
        if where and "--gin." not in message and not isinstance(e, InputError):
            message += f" (in {where.split(' ')[0]})"
        raise InputError(message) from e


def bindings() -> dict[str, str]:
    """Everything that gin files and flags have bound, by its name, as gin text."""
    return gin_text.bindings(gin.config_str())


def operative_config() -> str:
    """The bindings that were in effect for everything called so far, as gin text."""
    return gin.operative_config_str()


def _remedy(configurable: str) -> str:
    if configurable in ("RunConfig", "ImageRunConfig"):
        return f"{ADD_RUN_FILE}, which binds them to macros."
    return f"Bind them in a gin file, as gin_configs/{configurable.lower()}s does."
