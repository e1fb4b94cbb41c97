"""How many members of a population take their step at once, and what that needs of memory."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dpt_jax.sweeps import population_step
from dpt_jax.training.run import Run
from dpt_jax.training.step import Batch

# Of what is free, a share that leaves room for a compiler's own, which the estimate leaves out.
_SHARE_OF_FREE = 0.4


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a population's steps are laid out; `width * programs` members' activations are held.

    Attributes:
      width: members of one program.
      programs: programs that run at a time.
      bytes_each: an estimate of one member's activations.
    """

    width: int
    programs: int
    bytes_each: int

    def __str__(self) -> str:
        at_once = self.width * self.programs
        how = f", {self.width} in one program" if self.width > 1 else ""
        return (
            f"{at_once} at a time{how}, about {self.bytes_each / 1e6:,.0f} MB of activations each"
        )


def choose_layout(
    runs: Sequence[Run], mesh: Mesh, members_at_once: int | None, width: int | None
) -> Layout:
    """Decides how many members take their step at once.

    Args:
      runs: the members.
      mesh: the devices.
      members_at_once: how many, or None for what the memory has room for. A CPU then takes a
        member per core, since more do not make it faster.
      width: how many of them one program takes, or None for one on a CPU and all elsewhere.
    """
    config: Any = runs[0].config
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    # The draw of a dropout mask depends on the padded length, and so only members that are padded
    # as they would be alone can be mapped together.
    foldings: list[Any] = [run.problem.folding for run in runs]
    first, frozen = foldings[0], runs[0].frozen
    blanks = [blank for one in foldings for blank in one.blanks]
    shapes = {repr(jax.tree.map(np.shape, blank)) for blank in blanks}
    draws_differ = first.random and len(shapes) > 1
    each = population_step.activation_bytes(
        first.loss_fn,
        jax.eval_shape(first.fold, runs[0].state.params, frozen),
        frozen,
        _largest(blanks, config.microbatches),
    ) // max(1, mesh.shape["data"] * mesh.shape["fsdp"])
    if members_at_once is None:
        wanted = _cores() if on_cpu else len(runs)
        room = int(_free_bytes(mesh) * _SHARE_OF_FREE / max(each, 1))
        members_at_once = max(1, min(wanted, room))
    members_at_once = min(members_at_once, len(runs))
    if draws_differ:
        width = 1
    elif width is None:
        width = 1 if on_cpu else members_at_once
    width = min(width, members_at_once)
    programs = max(1, members_at_once // width)
    if mesh.size > 1:
        # Programs that wait for one another across devices must not meet.
        programs = 1
    return Layout(width, programs, each)


def _largest(blanks: Sequence[Batch], microbatches: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes that batches are padded to, of the rows that are run at once."""

    def largest(*arrays: np.ndarray) -> jax.ShapeDtypeStruct:
        rows, *rest = np.max([x.shape for x in arrays], axis=0).tolist()
        return jax.ShapeDtypeStruct((rows // microbatches, *rest), arrays[0].dtype)

    return jax.tree.map(largest, *blanks)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_bytes(mesh: Mesh) -> float:
    """Free memory of a device, or of this machine where devices do not say; else without limit."""
    stats = mesh.devices.flat[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as lines:
            kilobytes = {line.split(":")[0]: line.split()[1] for line in lines}
        return int(kilobytes["MemAvailable"]) * 1024
    except (OSError, KeyError):
        return np.inf
