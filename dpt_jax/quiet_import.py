"""Importing a library without what its C++ parts print as they start."""

import importlib
import os
import sys
from typing import Any


def quiet_import(name: str) -> Any:
    """Imports a module without the start-up messages of TensorFlow's C++ libraries.

    They go straight to file descriptor 2 before any setting is read, and say nothing of use to
    someone who trains with JAX. Errors of the import are exceptions and are not lost.
    """
    if name not in sys.modules:
        sys.stderr.flush()
        kept = os.dup(2)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            importlib.import_module(name)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    return sys.modules[name]
