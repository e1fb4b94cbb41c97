"""Prefixes in files: keys and values as `prefix.npz`, the trained parameters beside it.

`prefix.npz` holds arrays `<stack>_keys` and `<stack>_values` for each stack that the prefix acts on
("encoder", "decoder", "cross"), float32 `[layers, N, heads, head_dim]`, and a text `position_bias`.
Where `layers` is 1, the first layer has a prefix, and otherwise all have.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from dpt_jax.errors import InputError
from dpt_jax.files import atomic_write, fetched
from dpt_jax.interop.prompts import save_factors
from dpt_jax.interop.stored_prompt import read_npz
from dpt_jax.paths import as_path
from dpt_jax.run_files import PREFIX, PREFIX_FACTORS

_POSITION_BIAS = "position_bias"


@dataclasses.dataclass(frozen=True)
class FoldedPrefix:
    """A prefix as the layers take it, whatever method has made it.

    Attributes:
      arrays: `<stack>_keys` and `<stack>_values` by name, float32 `[layers, N, heads, head_dim]`.
      position_bias: "none" or "front", see `dpt_jax.prefixes.Prefix`.

    Raises:
      InputError: at construction, for arrays that make no prefix.
    """

    arrays: Mapping[str, Float32[np.ndarray, "layers length heads kv"]]
    position_bias: str = "none"

    def __post_init__(self):
        from dpt_jax.prefixes.base import POSITION_BIASES, STACKS

        names = {f"{stack}_{kind}" for stack in self.stacks for kind in ("keys", "values")}
        if not self.arrays or set(self.arrays) != names or not set(self.stacks) <= set(STACKS):
            raise InputError(
                f"A prefix has <stack>_keys and <stack>_values for some of {', '.join(STACKS)}, "
                f"but there are {', '.join(self.arrays) or 'no arrays'}."
            )
        if self.position_bias not in POSITION_BIASES:
            raise InputError(
                f"position_bias is {self.position_bias!r}; it must be one of "
                f"{', '.join(POSITION_BIASES)}."
            )
        for name, array in self.arrays.items():
            if array.ndim != 4 or 0 in array.shape:
                raise InputError(
                    f"{name} has shape {array.shape}; keys and values are "
                    "[layers, length, heads, head_dim]."
                )
            if not np.isfinite(array).all():
                count = np.count_nonzero(~np.isfinite(array))
                raise InputError(f"{name} has {count} of {array.size} numbers that are not finite.")
            first = self.arrays[f"{self.stacks[0]}_keys"]
            partner = self.arrays[name.replace("_values", "_keys")]
            if array.shape[1:] != first.shape[1:] or array.shape != partner.shape:
                raise InputError(
                    f"{name} has shape {array.shape}, which does not go with {first.shape} of "
                    f"{self.stacks[0]}_keys: length, heads and head_dim are to be the same."
                )

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that it acts on."""
        return tuple(dict.fromkeys(name.rpartition("_")[0] for name in self.arrays))

    @property
    def length(self) -> int:
        """Prefix tokens, N."""
        return next(iter(self.arrays.values())).shape[1]

    def module(self, shape: Any, source: str = "The prefix") -> Any:
        """The `FreePrefix` whose parameters `arrays` are, on a T5 of that shape.

        Args:
          shape: the T5's `T5Config`.
          source: what messages call the prefix.

        Raises:
          InputError: for a prefix of another model.
        """
        from dpt_jax.prefixes import FreePrefix, stacks_of

        layers = set()
        for name, stack in stacks_of(shape).items():
            if name not in self.stacks:
                continue
            found = self.arrays[f"{name}_keys"].shape
            if stack.num_layers > 1:
                layers.add("all" if found[0] == stack.num_layers else "first")
            if found[0] not in (1, stack.num_layers) or found[2:] != (
                stack.num_heads,
                stack.head_dim,
            ):
                raise InputError(
                    f"{source} is one of another model: in the {name} stack it has {found[0]} "
                    f"layers, {found[2]} heads and a head_dim of {found[3]}, but the model has "
                    f"{stack.num_layers}, {stack.num_heads} and {stack.head_dim}."
                )
        if len(layers) > 1:
            raise InputError(
                f"{source} acts on all layers of one stack and on the first layer of another."
            )
        return FreePrefix(
            self.length, self.stacks, layers.pop() if layers else "all", self.position_bias
        )


def save_prefix(
    folder: str | os.PathLike, prefix: FoldedPrefix, params: Mapping[str, Any] | None = None
) -> None:
    """Writes `prefix.npz`, and before it, given `params`, the trained parameters beside it.

    Every file appears whole or not at all.
    """
    target = as_path(folder)
    if params is not None:
        save_factors(target / PREFIX_FACTORS, params)
    arrays: dict[str, Any] = {**prefix.arrays, _POSITION_BIAS: np.asarray(prefix.position_bias)}
    with atomic_write(target / PREFIX) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_prefix(path: str | os.PathLike, flag: str = "--prompt") -> FoldedPrefix:
    """Reads a `prefix.npz`.

    Args:
      path: the file.
      flag: the flag or binding that gave it, for messages.

    Raises:
      InputError: no such file, or no prefix.
    """
    with fetched(path) as copy:
        arrays = read_npz(copy, flag)
    bias = str(arrays.pop(_POSITION_BIAS, "none"))
    try:
        return FoldedPrefix(
            {name: array.astype(np.float32) for name, array in arrays.items()}, bias
        )
    except (InputError, ValueError) as error:
        raise InputError(f"{path} holds no prefix: {error} Change {flag}.") from error
