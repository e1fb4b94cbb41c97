"""Reading a prompt that exists already: a `.npy` file or an array."""

import os

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

PromptSource = str | os.PathLike | np.ndarray


def prompt_array(prompt: PromptSource) -> Float32[np.ndarray, "length embed"]:
    """Reads a prompt.

    Args:
        prompt: a `.npy` file or an array, `[P, D]`, of float16, bfloat16, float32 or float64.

    Returns:
        The prompt as a float32 numpy array `[P, D]`.

    Raises:
        ValueError: if the file is missing or not `.npy`, or the array is not two-dimensional,
            is empty, is not of a float type, or has numbers that are not finite in float32.
    """
    name = source_name(prompt)
    array = _load(prompt) if isinstance(prompt, str | os.PathLike) else np.asarray(prompt)
    # numpy writes bfloat16, a type it does not know, as two raw bytes.
    if array.dtype == np.dtype("V2"):
        array = array.view(jnp.bfloat16)
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


def source_name(prompt: PromptSource) -> str:
    """Returns how an error message names the prompt: its path, or "The given array"."""
    return str(prompt) if isinstance(prompt, str | os.PathLike) else "The given array"


def shape_error(
    prompt: PromptSource, array: np.ndarray, length: int | None, embed_dim: int | None
) -> ValueError:
    """Makes the error for a prompt of the wrong shape, saying what to change.

    Args:
        prompt: the file or array that was read.
        array: what it holds, `[P, D]`.
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
        f"{source_name(prompt)} holds a prompt of shape {array.shape}, but the wanted shape "
        f"(PROMPT_LENGTH, EMBED_DIM) is ({wanted}): {' and '.join(advice)}."
    )


def _load(path: str | os.PathLike) -> np.ndarray:
    try:
        loaded = np.load(os.path.expanduser(path), allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"There is no prompt file {path}.") from error
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a .npy file: {error}") from error
    if not isinstance(loaded, np.ndarray):
        names = ", ".join(sorted(loaded.files))
        loaded.close()
        raise ValueError(
            f"{path} is a .npz archive (of {names}), but a prompt to start from is a .npy file. "
            "`dpt export` writes one."
        )
    return loaded
