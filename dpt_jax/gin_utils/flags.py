"""Bindings of the command line, `--gin.NAME=VALUE`."""

import ast
import contextlib
import inspect
import re

import gin

from dpt_jax.errors import InputError, nearest_names
from dpt_jax.gin_utils.messages import PARSE_ERRORS
from dpt_jax.gin_utils.search import import_seqio

# What a binding on the command line may name beside that which the gin files use.
_IMPORTS = """
from __gin__ import dynamic_registration
import optax
from dpt_jax import models
from dpt_jax import prompts
from dpt_jax import prefixes
from dpt_jax import sweeps
from dpt_jax.prompts import initializers
from dpt_jax.training import config
from dpt_jax.training import schedules
"""

# What our tasks let gin set; their module brings TensorFlow, which other bindings can do without.
_TASK_BINDING = re.compile(
    r"(settings\.)?(superglue_dir|vocabulary_file)\.|(registry\.)?examples_proportional\."
)


# A text that needs no quotes begins so, holds no mark of gin's, and is nothing else to Python.
_BARE_TEXT = re.compile(r"[\w/~.]")
_MARKS = frozenset("'\"@%()[]{},#")


def parse_binding(binding: str) -> None:
    """Parses `NAME = VALUE` on top of what has been parsed.

    A value that gin cannot read is a text where it looks like one: a path, a URL or a name.

    Raises:
      InputError: for a name or parameter that does not exist, or a value that cannot be read.
    """
    name, _, value = (part.strip() for part in binding.partition("="))
    if _is_bare_text(value):
        binding = f"{name} = {value!r}"
    try:
        gin.parse_config(binding)
        return
    except PARSE_ERRORS as e:
        error = e
    if "No configurable matching" in str(error):
        # The files' imports do not reach here, so that `@optax.lion` is not known yet.
        imports = _IMPORTS
        if _TASK_BINDING.match(name):
            import_seqio()
            imports += "from dpt_jax.tasks import registry\nfrom dpt_jax.tasks import settings\n"
        with contextlib.suppress(*PARSE_ERRORS):
            gin.parse_config(imports + binding)
            return
    message = str(error).strip().split("\n  In bindings string")[0]
    if "parse" in message:
        message = (
            "it cannot be read; a value is written as in Python, without calls: 0.1, 'text', "
            "(1, 2), None, or @a_function."
        )
    unknown = re.search(r"'(\S+)' doesn't have a parameter named '(\w+)'", message)
    if unknown:
        message += nearest_names(unknown[2], _parameters(unknown[1]), count=1)
    raise InputError(f"--gin.{name}={value}: {message}") from error


def _is_bare_text(value: str) -> bool:
    if not _BARE_TEXT.match(value) or _MARKS & set(value):
        return False
    try:
        ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return True
    return False


def _parameters(selector: str) -> list[str]:
    """The arguments of what gin knows under a name, such as `optax.adamw`."""
    try:
        found = gin.get_configurable(selector)
    except ValueError:
        return []
    # What gin makes of a class takes anything; its `__init__` is that of the class.
    return list(inspect.signature(found.__init__ if inspect.isclass(found) else found).parameters)
