"""A prefix that starts where another one has ended."""

import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from dpt_jax.interop.prefixes import FoldedPrefix, load_prefix


def prefix_from_file(path: str, flag: str = "PREFIX_FILE") -> Any:
    """The `FreePrefix` whose keys and values start as those of a `prefix.npz`.

    Length, stacks, layers and position bias are the file's.

    Args:
      path: a `prefix.npz`, as runs have it in `numpy_checkpoints/`.
      flag: the flag or binding that gave `path`, for the messages.

    Raises:
      InputError: no such file, or no prefix. An initializer raises ValueError where the model has
        other layers or heads than the file.
    """
    remedy = f"Change {flag} or the model gin file."
    return prefix_from(load_prefix(path, flag), os.fspath(path), remedy)


def prefix_from(
    folded: FoldedPrefix, source: str, remedy: str = "Give a prefix of this model."
) -> Any:
    """The `FreePrefix` whose keys and values start as those of an existing prefix.

    Args:
      folded: the prefix, of which it has length, stacks, layers and position bias.
      source: what messages call it.
      remedy: what to do about one of another model, a sentence.

    Returns:
      The method. Its initializers raise ValueError where the model has other layers or heads.
    """
    from dpt_jax.prefixes import FreePrefix

    layers = {array.shape[0] for array in folded.arrays.values()}

    def starts(kind: str) -> dict[str, Any]:
        names = {stack: f"{stack}_{kind}" for stack in folded.stacks}
        return {stack: _start(folded, name, source, remedy) for stack, name in names.items()}

    return FreePrefix(
        folded.length,
        folded.stacks,
        "first" if layers == {1} else "all",
        folded.position_bias,
        keys_init=starts("keys"),
        values_init=starts("values"),
    )


def _start(folded: FoldedPrefix, name: str, source: str, remedy: str) -> Any:
    """An initializer that gives one of a prefix's arrays."""

    def initializer(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        array = folded.arrays[name]
        if array.shape != tuple(shape):
            raise ValueError(
                f"{source} holds {name} of shape {array.shape}, but the model asks for "
                f"{tuple(shape)} (layers, length, heads, head_dim). {remedy}"
            )
        return jnp.asarray(array, dtype)

    return initializer
