"""Device meshes and where arrays live on them.

Parameters and activations carry logical axis names; the rules below map those to the mesh's axes.
One device is the 1 x 1 x 1 mesh, so there is one code path.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax.linen import partitioning as nn_partitioning
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from dpt_jax.errors import InputError

MESH_AXES = ("data", "fsdp", "model")

# Logical axis -> mesh axis; a mesh axis is used at most once per array, the first name wins.
# Axes that only prompts and prefixes have are not among them: these are on every device, being
# thousands of numbers.
LOGICAL_AXIS_RULES: tuple[tuple[str, Any], ...] = (
    ("batch", ("data", "fsdp")),
    ("vocab", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("mlp", "model"),
    ("embed", "fsdp"),
    ("length", None),
    ("kv", None),
    ("relpos_buckets", None),
)


def mesh_shape(shape: Sequence[int], devices: int) -> tuple[int, int, int]:
    """The sizes of (data, fsdp, model), a -1 filled with what is left.

    Args:
      shape: sizes of the three axes (gin: `MESH`); one of them may be -1.
      devices: number of devices.

    Raises:
      InputError: when the sizes do not multiply to the number of devices.
    """
    shape = tuple(shape)
    if len(shape) != 3 or shape.count(-1) > 1 or any(n < 1 and n != -1 for n in shape):
        raise InputError(
            f"MESH is {shape}; it takes three positive sizes (data, fsdp, model), one may be -1."
        )
    known = math.prod(n for n in shape if n != -1)
    data, fsdp, model = (devices // known if n == -1 else n for n in shape)
    if data * fsdp * model != devices:
        raise InputError(
            f"MESH = {shape} (data, fsdp, model) does not make the {devices} devices; "
            "set --gin.MESH so that the product is the number of devices."
        )
    return data, fsdp, model


def make_mesh(shape: Sequence[int] = (-1, 1, 1), devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the (data, fsdp, model) mesh over `devices`, by default all of them.

    On TPUs, devices that are neighbours on the model axis, where most is exchanged, are neighbours
    in the slice as well.

    Args:
      shape: sizes of the three axes (gin: `MESH`); one of them may be -1 and takes what is left.
      devices: JAX devices.

    Raises:
      InputError: when the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_shape(shape, len(devices))
    return Mesh(
        mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True), MESH_AXES
    )


def check_batch(
    name: str, batch_size: int, mesh: Mesh | AbstractMesh, microbatches: int = 1
) -> None:
    """Raises InputError unless the mesh's data and fsdp axes divide every part of the batch."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size < 1 or batch_size % (shards * microbatches):
        parts = f" times MICROBATCHES = {microbatches}" if microbatches > 1 else ""
        raise InputError(
            f"{name} = {batch_size} is not a positive multiple of the {shards} batch shards of "
            f"the mesh {dict(mesh.shape)}{parts}; change --gin.{name} or --gin.MESH."
        )


@contextlib.contextmanager
def activate(mesh: Mesh) -> Iterator[None]:
    """Makes logical constraints inside the network mean this mesh."""
    with jax.set_mesh(mesh), nn_partitioning.axis_rules(LOGICAL_AXIS_RULES):
        yield


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How batches live: rows over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """How prompts, optimizer slots of prompts and scalars live."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(variables: Any, mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """A sharding for every parameter, from the logical axes it was declared with.

    Args:
      variables: what `model.init` gives (its `eval_shape` will do): `params` and `params_axes`.
      mesh: the mesh.

    Returns:
      A tree like `variables["params"]` of NamedShardings.

    Raises:
      InputError: when a mesh axis does not divide a parameter.
    """
    names = flatten_dict(nn_partitioning.get_axis_names(variables["params_axes"]), sep="/")
    shardings = {}
    for name, parameter in flatten_dict(variables["params"], sep="/").items():
        spec = nn_partitioning.logical_to_mesh_axes(names[name], LOGICAL_AXIS_RULES)
        spec = spec or PartitionSpec()
        for size, axis, logical in zip(parameter.shape, spec, names[name], strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise InputError(
                    f"MESH has {mesh.shape[axis]} {axis} shards, which do not divide the {size} of "
                    f"the {logical!r} axis of {name}, shape {parameter.shape}. Change --gin.MESH = "
                    "(data, fsdp, model)."
                )
        shardings[name] = NamedSharding(mesh, spec)
    return unflatten_dict(shardings, sep="/")


def shardings_of(
    params: dict[str, Any], shardings: Callable[[Mesh], dict[str, Any]] | None, mesh: Mesh
) -> dict[str, Any]:
    """What `shardings` gives for a mesh; for None, a whole copy of every parameter everywhere."""
    if shardings is not None:
        return shardings(mesh)
    return unflatten_dict(dict.fromkeys(flatten_dict(params), replicated(mesh)))


def state_shardings(
    state: Any, params: Any, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Any:
    """A sharding for everything in a training state; slots live where their parameters live.

    Args:
      state: a `TrainState`, or its shapes.
      params: shardings of the trainable parameters.
      optimizer: the optimizer that made the state's slots.
      mesh: the mesh.
    """
    everywhere = replicated(mesh)

    def absent(slot):
        # Of a parameter that another part of the optimizer has (`optax.partition`).
        return isinstance(slot, optax.MaskedNode)

    def slot(slot, param, sharding):
        if absent(slot):
            return slot
        # Adafactor's factored slots have another shape than their parameter.
        return sharding if slot.shape == param.shape else everywhere

    slots = optax.tree_utils.tree_map_params(
        optimizer,
        slot,
        state.opt_state,
        state.params,
        params,
        transform_non_params=lambda _: everywhere,
        is_leaf=absent,
    )
    return state.replace(step=everywhere, params=params, opt_state=slots, rng=everywhere)


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that this process's devices hold, ascending."""
    blocks = _process_blocks(mesh)
    size = batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    return (blocks[:, None] * size + np.arange(size)).reshape(-1)


def _process_blocks(mesh: Mesh) -> np.ndarray:
    """Which of the data x fsdp parts of a batch this process's devices hold, ascending."""
    owners = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
    return np.flatnonzero((owners == jax.process_index()).any(axis=2).reshape(-1))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places a batch, of which `batch` holds this process's rows (see `process_rows`)."""
    sharding, blocks = batch_sharding(mesh), _process_blocks(mesh)

    def put(local: np.ndarray) -> jax.Array:
        size = len(local) // len(blocks)
        shape = (size * mesh.shape["data"] * mesh.shape["fsdp"], *local.shape[1:])

        def rows(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # The sharding is a NamedSharding, which cuts every array.
            position = np.searchsorted(blocks, (index[0].start or 0) // size)
            return local[position * size : (position + 1) * size]

        return jax.make_array_from_callback(shape, sharding, rows)

    return {name: put(local) for name, local in batch.items()}


def put_whole_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """`put_batch` of rows that every process has all of."""
    rows = process_rows(mesh, len(next(iter(batch.values()))))
    return put_batch({name: array[rows] for name, array in batch.items()}, mesh)
