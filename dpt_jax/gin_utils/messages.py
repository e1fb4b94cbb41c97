"""What gin says of a file that it cannot use, in one line that names what to change."""

import pathlib
import re
import tokenize

from dpt_jax.errors import MODULES_ARE_FOUND, nearest_names
from dpt_jax.gin_utils.search import gin_configs

# What gin raises for a text that cannot be used.
PARSE_ERRORS = (
    ValueError,
    SyntaxError,
    OSError,
    ImportError,
    AttributeError,
    NameError,
    TypeError,
    tokenize.TokenError,
)

ADD_RUN_FILE = "Add --gin_file=runs/prompt_train.gin"


def explain(error: Exception) -> str:
    """One of `PARSE_ERRORS` as one line."""
    message = str(error).strip()
    missing = re.search(r"Unable to open file: (\S+)\. Searched", message)
    if missing:
        name = missing.group(1)
        if pathlib.Path(name).is_dir():
            return f"{name} is a folder, no gin file. Change --gin_file."
        root = gin_configs()
        known = [str(p.relative_to(root)) for p in root.rglob("*.gin")]
        return (
            f"There is no gin file {name!r}.{nearest_names(name, known)} Looked in the working "
            f"directory, --gin_search_paths and {root}. Change --gin_file."
        )
    if isinstance(error, SyntaxError) and error.text:
        where = f"{error.filename}, line {error.lineno}: {error.text.strip()}"
        message = f"{error.msg} ({where})"
    # Gin writes the line under the message, and a mark under the line.
    message = re.sub(r"\s*\n\s*\^+\s*$", "", message)
    message = re.sub(r'(In file ".*", line \d+)\s*\n', r"\1:", message)
    remedy = f" {MODULES_ARE_FOUND}." if isinstance(error, ModuleNotFoundError) else ""
    return f"The gin configuration cannot be used: {' '.join(message.split())}{remedy}"
