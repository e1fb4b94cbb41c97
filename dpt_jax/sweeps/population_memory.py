"""How many members of a population take their step at once, and what that needs of memory."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpt_jax.problems.folded import folded_model_of
from dpt_jax.sweeps import population_step
from dpt_jax.training.run import Run

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
    data: list[Any] = [run.problem.data for run in runs]
    shapes = {(length, one.target_length) for one in data for length in one.buckets}
    draws_differ = config.model.dropout_rate > 0 and len(shapes) > 1
    source, target = (max(sizes) for sizes in zip(*shapes, strict=True))
    each = population_step.activation_bytes(
        folded_model_of(config),
        (config.batch_size // config.microbatches, source, target),
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
