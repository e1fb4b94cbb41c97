"""Arrays between a host's memory and the devices of a mesh."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from t5x.partitioning import BasePartitioner, PartitionSpec


def host_array(x: Any) -> np.ndarray:
    """The whole of an array in this host's memory; where it is sharded, all hosts must call."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x.addressable_data(0) if getattr(x, "is_fully_replicated", False) else x)


def placed(array: np.ndarray, axes: Any, partitioner: BasePartitioner) -> jax.Array:
    """Puts an array that every host has on the devices of the mesh."""
    sharding = NamedSharding(partitioner.mesh, axes or PartitionSpec())
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
