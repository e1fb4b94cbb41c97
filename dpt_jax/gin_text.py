"""A gin configuration as gin prints it, such as a run's `config.gin`, read without gin."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_REFERENCE = re.compile(r"@(?:\w+/)*([\w.]+)")


class Setting(NamedTuple):
    """A binding that is in effect.

    Attributes:
      value: gin text, that of a macro in the macro's place.
      flag: what a person sets to change it: the macro's name, or else the binding's.
    """

    value: str
    flag: str


def bindings(text: str) -> dict[str, str]:
    """Everything that is bound, by its name, as gin text; macros are under their own names."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith(" "):  # Goes on with the value.
            found[name] = f"{found[name].removesuffix(chr(92)).rstrip()} {line.strip()}".strip()
        elif " = " in line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            found[name] = value
    return found


def settings_of(text: str, roots: Iterable[str]) -> dict[str, Setting]:
    """The bindings behind some arguments: their own, and those of what their values refer to.

    Args:
      text: what gin printed.
      roots: arguments without modules and scopes, such as `RunConfig.optimizer`.

    Returns:
      The settings by name, as in `optax.adamw.b1`.
    """
    bound = bindings(text)
    found: dict[str, Setting] = {}
    wanted = {name for name in bound if _ends_with(name, roots)}
    while wanted:
        found |= {name: _resolved(bound, name) for name in wanted}
        used = {one for name in wanted for one in _REFERENCE.findall(found[name].value)}
        wanted = {name for name in bound if _function_of(name) in used} - found.keys()
    return found


def _ends_with(name: str, roots: Iterable[str]) -> bool:
    return any(name == root or name.endswith(f".{root}") for root in roots)


def _function_of(name: str) -> str:
    """`optax.adamw` of `scope/optax.adamw.b1`."""
    return name.split("/")[-1].rpartition(".")[0]


def _resolved(bound: Mapping[str, str], name: str) -> Setting:
    flag, value = name, bound[name]
    while value.startswith("%") and value[1:] in bound:
        flag = value[1:]
        value = bound[flag]
    return Setting(value, flag)
