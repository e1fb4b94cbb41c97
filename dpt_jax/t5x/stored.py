"""Reads a part of a train state from whatever holds it, sharded where T5X reads sharded."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from t5x import checkpoints, state_utils
from t5x.partitioning import BasePartitioner
from tensorflow.io import gfile

from dpt_jax.errors import InputError
from dpt_jax.interop import open_backbone
from dpt_jax.t5x.arrays import placed
from dpt_jax.t5x.prompt_state import TrainState, flat_state, mesh_axes

_REMEDY = (
    "Set INITIAL_CHECKPOINT_PATH (training) or CHECKPOINT_PATH (evaluation), or take the model gin "
    "file of this checkpoint's size."
)
# What Orbax leaves in a folder; T5X's released format has a file `checkpoint` instead.
_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "state")


class MissingError(InputError):
    """A checkpoint lacks a parameter."""


def restore_part(
    path: str,
    part: TrainState,
    partitioner: BasePartitioner,
    dtype: Any = None,
    transformations: Sequence[Callable] = (),
    dataset_iterator: Any = None,
) -> dict[str, Any]:
    """Restores the leaves of a part of a train state.

    Args:
      path: a checkpoint of T5X, in the released format or Orbax's, or a pretrained T5 in another
        format.
      part: the shapes of what is wanted, with T5X's names.
      partitioner: says where arrays are.
      dtype: to cast parameters to while they are read; None as stored.
      transformations: T5X's `state_transformation_fns`, applied first.
      dataset_iterator: restored too, from the released format.

    Returns:
      The arrays by the names of `flat_state(part)`, on their devices.

    Raises:
      MissingError: something of `part` is not in the checkpoint.
      InputError: something has another shape, or `path` is no checkpoint.
    """
    wanted = {name: leaf.shape for name, leaf in flat_state(part).items()}

    def only_wanted(stored: Mapping[str, Any], _: Any, **unused: Any) -> dict[str, Any]:
        found = state_utils.flatten_state_dict(stored)
        check_shapes(path, {name: _shape(leaf) for name, leaf in found.items()}, wanted)
        return unflatten_dict({name: found[name] for name in wanted}, sep="/")

    fns = (*transformations, only_wanted)
    folders = (path, os.path.join(path, "state"))
    if any(gfile.exists(os.path.join(folder, "checkpoint")) for folder in folders):
        reader = checkpoints.Checkpointer(
            part, partitioner, "", dataset_iterator, restore_dtype=dtype
        )
        state = reader.restore(path=path, state_transformation_fns=fns)
    elif any(gfile.exists(os.path.join(path, name)) for name in _ORBAX):
        manager = checkpoints.OrbaxCheckpointManagerInterface(
            os.path.dirname(path), part, partitioner, restore_dtype=dtype
        )
        state = manager.restore(path=path, state_transformation_fns=fns)
    else:
        return _open_other(path, part, partitioner, dtype, wanted)
    return flat_state(state)


def check_shapes(
    path: str, found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Checks that all that is wanted is there; a shape of None is not known and not checked.

    Raises:
      MissingError: names the first that is missing, and how many are.
      InputError: names the first of another shape.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        raise MissingError(
            f"{path} lacks {len(missing)} of the {len(wanted)} arrays wanted, the first "
            f"{missing[0].removeprefix('target/')}. {_REMEDY}"
        )
    for name, shape in wanted.items():
        if found[name] not in (None, shape):
            raise InputError(
                f"{path}: {name.removeprefix('target/')} has shape {found[name]}, but the model "
                f"file asks for {shape}. {_REMEDY}"
            )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    if isinstance(leaf, Mapping):  # a TensorStore spec
        return tuple(leaf["metadata"]["shape"])
    return np.shape(leaf) if isinstance(leaf, np.ndarray | np.generic) else None


def _open_other(
    path: str, part: TrainState, partitioner: BasePartitioner, dtype: Any, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """A pretrained T5 of another kind: read one parameter at a time, whole on every host."""
    backbone = open_backbone(path)
    if backbone.config.relpos_bias_per_layer:
        raise InputError(
            f"{path} is a umT5, with a position bias in every layer; T5X's T5 has one for all. "
            f"Train umT5 with dpt train. {_REMEDY}"
        )
    tensors = {f"target/{name}": t for name, t in backbone.tensors.items()}
    check_shapes(path, {**{n: t.shape for n, t in tensors.items()}, "state/step": ()}, wanted)
    axes = mesh_axes(part, partitioner)

    def read(name: str) -> Any:
        if name == "state/step":
            return placed(np.zeros((), np.int32), axes[name], partitioner)
        array = tensors[name].read()
        return placed(array.astype(dtype) if dtype else array, axes[name], partitioner)

    return {name: read(name) for name in flatten_dict(part.state_dict(), sep="/")}
