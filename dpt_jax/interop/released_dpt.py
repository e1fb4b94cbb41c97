"""Soft prompts of the DPT authors' released PyTorch code (https://github.com/XYaoooo/DPT).

It saves `<tasks>.soft_prompts.step.<n>.pt`: a dict with the trained `params`, the step, and the
states of the optimizer and the schedule. The prompt is `prefix_first @ prefix_second`, put in front
of the embedded input of the encoder: A [P, b] and B [b, D] of a `DecomposedPrompt`.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import InputError

_FACTORS = {"prefix_first": "A", "prefix_second": "B"}


def read_soft_prompt(
    path: Path, flag: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Reads a soft prompt.

    Args:
      path: the `.pt` file, with the authors' dict or with its `params` alone.
      flag: the flag or binding that gave `path`, for the messages.

    Returns:
      The factors under our names, `A [P, b]` and `B [b, D]`; the same under the names they are
      stored under; and what else the file says of itself.

    Raises:
      InputError: PyTorch is missing; the file is damaged, would run code, or does not have exactly
        these two factors.
    """
    saved = _load(path, flag)
    params = saved.get("params", saved) if isinstance(saved, Mapping) else saved
    if not isinstance(params, Mapping):
        raise InputError(_refusal(path, f"a {type(params).__name__}", flag))
    # In full the names are "encoder.prefix_first", after "module." when several GPUs trained.
    names = {name: str(name).split(".")[-1] for name in params}
    if sorted(names.values()) != sorted(_FACTORS):
        found = ", ".join(map(str, list(params)[:6])) + (", …" if len(params) > 6 else "")
        raise InputError(_refusal(path, found or "nothing", flag))
    try:
        arrays = {name: params[name].detach().float().numpy() for name in sorted(names)}
    except (AttributeError, TypeError) as error:
        raise InputError(_refusal(path, "something else under these names", flag)) from error
    factors = {_FACTORS[names[name]]: array for name, array in arrays.items()}
    step = saved.get("global_step")
    return factors, arrays, {} if step is None else {"step": step}


def _load(path: Path, flag: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} needs PyTorch to be read: install dpt-jax[interop], or change {flag}."
        ) from error
    try:
        with torch.serialization.safe_globals(_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it holds more than tensors and numbers, and reading it could run "
            f"any code. Change {flag}."
        ) from error
    # PyTorch and the formats that it looks for have many errors for bytes that make no sense.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as a file of PyTorch: {reason}. It may be half copied; change "
            f"{flag}."
        ) from error


def _scalars() -> list[Any]:
    """NumPy's float64 numbers, as what they are pickled with; safe, for they are only numbers.

    The authors multiply the learning rate by a NumPy number, which so gets into the states of the
    optimizer and the schedule. NumPy 2 moved the function that such a pickle names.
    """
    rebuild = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    return [np.dtype, np.dtypes.Float64DType, *((rebuild, f"{name}.scalar") for name in modules)]


def _refusal(path: Path, found: str, flag: str) -> str:
    return (
        f"{path} is a file of PyTorch, but no soft prompt of the released DPT code, which holds "
        f"{' and '.join(_FACTORS)}; it holds {found}. Change {flag}."
    )
