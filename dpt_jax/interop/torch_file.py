"""PyTorch's files, read without running what may be in them; PyTorch is imported here alone."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import InputError
from dpt_jax.interop.tensors import BFLOAT16


def load_weights_only(path: Path, flag: str, allowed: Sequence[Any] = ()) -> Any:
    """Loads a file that `torch.save` wrote, with tensors on the CPU.

    Args:
      path: the file.
      flag: the flag or binding that gave `path`, for the messages.
      allowed: what the file may name besides tensors and plain containers, as
        `torch.serialization.safe_globals` takes it.

    Raises:
      InputError: PyTorch is missing, the file is damaged, or it would run code.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} needs PyTorch to be read: install dpt-jax[interop], or change {flag}."
        ) from error
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it holds more than tensors and numbers, and reading it could run "
            f"any code. Change {flag}."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as a file of PyTorch: {error}. It may be half copied; change "
            f"{flag}."
        ) from error


def as_array(tensor: Any) -> np.ndarray:
    """A PyTorch tensor, trainable or not, as a NumPy array of the same type."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        # NumPy has no bfloat16 of its own, so that PyTorch does not hand it over as such.
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()
