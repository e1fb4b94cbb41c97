"""A prefix that starts where a file has it."""

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
    from dpt_jax.prefixes import FreePrefix

    folded = load_prefix(path, flag)
    layers = {array.shape[0] for array in folded.arrays.values()}
    return FreePrefix(
        folded.length,
        folded.stacks,
        "first" if layers == {1} else "all",
        folded.position_bias,
        keys_init={s: _start(folded, f"{s}_keys", path, flag) for s in folded.stacks},
        values_init={s: _start(folded, f"{s}_values", path, flag) for s in folded.stacks},
    )


def _start(folded: FoldedPrefix, name: str, path: str, flag: str) -> Any:
    """An initializer that gives one of a prefix's arrays."""

    def initializer(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        array = folded.arrays[name]
        if array.shape != tuple(shape):
            raise ValueError(
                f"{path} holds {name} of shape {array.shape}, but the model asks for "
                f"{tuple(shape)} (layers, length, heads, head_dim). Change {flag} or the model gin "
                "file."
            )
        return jnp.asarray(array, dtype)

    return initializer
