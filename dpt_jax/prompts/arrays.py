"""A prompt that exists already: what an array must be to start from, and how errors name it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32


def prompt_array(prompt: Any, name: str | None = None) -> Float32[np.ndarray, "length embed"]:
    """Takes an array for a prompt.

    Args:
        prompt: an array `[P, D]` of float16, bfloat16, float32 or float64, or what NumPy makes one
            of; a file that reads itself then (`dpt_jax.interop.PromptFile`) is one.
        name: how messages name it; by default its own `name`, which such a file has.

    Returns:
        The prompt as a float32 numpy array `[P, D]`.

    Raises:
        ValueError: if the array is not two-dimensional, is empty, is not of a float type, or has
            numbers that are not finite in float32.
    """
    name = name or name_of(prompt)
    array = np.asarray(prompt)
    if not jnp.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name} holds numbers of type {array.dtype}, but a prompt is float16, bfloat16, "
            "float32 or float64."
        )
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"{name} holds an array of shape {array.shape}, but a prompt has the shape "
            "(PROMPT_LENGTH, EMBED_DIM)."
        )
    # A float64 beyond float32's range becomes infinite, which is reported just below.
    with np.errstate(over="ignore"):
        result = array.astype(np.float32)
    finite = np.isfinite(result)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{name} has {np.count_nonzero(~finite)} of {result.size} numbers that are not finite "
            f"in float32, the first in row {row}, column {column}. Give the prompt of an earlier, "
            "finite checkpoint."
        )
    return result


def name_of(array: Any) -> str:
    """Returns how an error message names an array: by its `name`, or as "The given array"."""
    return getattr(array, "name", "The given array")


def shape_error(
    name: str, array: np.ndarray, length: int | None, embed_dim: int | None
) -> ValueError:
    """Makes the error for a prompt of the wrong shape, saying what to change.

    Args:
        name: how the message names it.
        array: the prompt, `[P, D]`.
        length: the length wanted; None where any length will do.
        embed_dim: the width wanted; None where any width will do.
    """
    wanted = ", ".join("any" if size is None else str(size) for size in (length, embed_dim))
    advice = []
    if length not in (None, array.shape[0]):
        advice.append(f"set --gin.PROMPT_LENGTH={array.shape[0]}")
    if embed_dim not in (None, array.shape[1]):
        advice.append(f"give a prompt of a model with an EMBED_DIM of {embed_dim}")
    return ValueError(
        f"{name} holds a prompt of shape {array.shape}, but the wanted shape "
        f"(PROMPT_LENGTH, EMBED_DIM) is ({wanted}): {' and '.join(advice)}."
    )
