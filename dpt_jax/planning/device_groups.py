"""Which devices take part in a collective, in every notation of HLO."""

import math
import re

import numpy as np

from dpt_jax.planning.hlo import Instruction


def exchanging_group(i: Instruction, partitions: int) -> tuple[int, ...]:
    """One of the groups of devices that exchange, as places in the flattened mesh.

    Args:
      i: the collective.
      partitions: how many devices run the program; all of them exchange where no group is named.
    """
    pairs = i.attribute("source_target_pairs")
    if pairs:
        # Some devices may send to themselves.
        sent = re.findall(r"\{(\d+),(\d+)\}", pairs)
        return next(((int(a), int(b)) for a, b in sent if a != b), (0,))
    text = i.attribute("replica_groups") or "{}"
    listed = re.match(r"\{\{([\d,]+)\}", text)
    if listed:
        return tuple(int(n) for n in listed.group(1).split(","))
    counted = re.match(r"\[([\d,]+)\]<=(.*)", text)
    if counted:
        shape = [int(n) for n in counted.group(1).split(",")]
        return tuple(_iota(counted.group(2)).reshape(shape)[0].reshape(-1).tolist())
    if text.startswith("mesh["):
        return _mesh_group(i.attributes[i.attributes.index("replica_groups=mesh[") :])
    return tuple(range(partitions))


def _iota(text: str) -> np.ndarray:
    """Reads `[4,4]T(1,0)`: the numbers from 0 in that shape, transposed."""
    shape = [int(n) for n in re.findall(r"\d+", text[: text.index("]")])]
    order = re.search(r"T\(([\d,]+)\)", text)
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose([int(n) for n in order.group(1).split(",")]) if order else ids


def _mesh_group(text: str) -> tuple[int, ...]:
    """Reads `mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'a'}`: the devices along `a`."""
    sizes = re.findall(r"'([^']+)'=(\d+)", text[: text.index("]")])
    rest = text[text.index("]") :]
    axes = re.findall(r"'([^']+)'", rest[rest.index("{") : rest.index("}")])
    names = [name for name, _ in sizes]
    shape = [int(n) for _, n in sizes]
    order = re.match(r"\], device_ids=\(([^{]*)\) ", rest)
    ids = _iota(order.group(1)) if order else np.arange(math.prod(shape))
    index = tuple(slice(None) if name in axes else 0 for name in names)
    return tuple(ids.reshape(shape)[index].reshape(-1).tolist())
