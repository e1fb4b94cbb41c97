"""The part of a gin text that one configurable needs, found by following its references."""

from collections.abc import Iterator
from typing import Any

import gin


class _Reference(str):
    """`@scope/module.name()` or `%MACRO`, which a container prints as it is."""

    __repr__ = str.__str__


class _References(gin.config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        return _Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name):
        return _Reference(f"%{macro_name}")


def part(text: str, root: str) -> str:
    """The statements of a gin text that a configurable needs, found by following its references.

    Args:
      text: bindings and imports.
      root: the configurable's name without its module.
    """
    statements = list(gin.config_parser.ConfigParser(text, _References()))
    imports = [s for s in statements if isinstance(s, gin.config_parser.ImportStatement)]
    bindings = [s for s in statements if isinstance(s, gin.config_parser.BindingStatement)]
    needed, known = {root}, 0
    while len(needed) > known:
        known = len(needed)
        for binding in bindings:
            if _last_name(binding.selector) in needed:
                needed |= {_last_name(name) for name in _referred(binding.value)}
    kept = [binding for binding in bindings if _last_name(binding.selector) in needed]
    names = [name for b in kept for name in (b.selector, *_referred(b.value))]
    modules = {"dynamic_registration", *(name.partition(".")[0] for name in names)}
    lines = [s.format() for s in imports if s.bound_name() in modules]
    for scope, selector, argument, value, _ in kept:
        name = "/".join(filter(None, (scope, selector)))
        lines.append(f"{name}{'.' if argument else ''}{argument} = {value!r}")
    return "\n".join(lines) + "\n"


def _referred(value: Any) -> Iterator[str]:
    """The selectors that a parsed value refers to, without their scopes."""
    if isinstance(value, _Reference):
        yield value.strip("@%()").split("/")[-1]
    elif isinstance(value, dict):
        yield from _referred([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _referred(element)


def _last_name(selector: str) -> str:
    return selector.split(".")[-1]
