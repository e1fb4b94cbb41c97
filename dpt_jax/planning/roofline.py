"""How fast a compiled program can be, by the published rates of the chips it runs on."""

import dataclasses
import functools
from collections.abc import Sequence

from dpt_jax.planning.compiled import Costs
from dpt_jax.planning.tpus import Slice


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A roofline estimate of a program's time, in seconds.

    What the slowest published rate allows, and no more: no latency, no launch, no work that is
    not a matrix product or a memory access, and collectives that overlap with nothing.

    Attributes:
      compute: matrix products at the chip's bfloat16 peak.
      memory: bytes at the bandwidth of the chip's memory.
      collectives: bytes sent at the rate of the links that each group has.
      total: instructions one after the other, each as slow as its products or its bytes, then the
        collectives.
    """

    compute: float
    memory: float
    collectives: float
    total: float


def estimate(costs: Costs, where: Slice, places: Sequence[Sequence[int]]) -> Estimate:
    """The roofline (Williams et al., 2009) of a program on a slice.

    Args:
      costs: what the program does on each chip.
      where: the slice.
      places: coordinates in the slice of the mesh's devices, in the order of the flattened mesh.
    """
    chip = where.chip

    def rate(group: tuple[int, ...]) -> float:
        return where.exchange_rate([places[device] for device in group])

    rate = functools.cache(rate)
    in_turn = sum(
        w.times * max(w.flops / chip.flops_per_second, w.bytes / chip.hbm_bytes_per_second)
        for w in costs.work
        if w.waits
    )
    memory = costs.bytes / chip.hbm_bytes_per_second
    collectives = sum(c.times * c.bytes_sent / rate(c.group) for c in costs.collectives)
    return Estimate(
        compute=costs.flops / chip.flops_per_second,
        memory=memory,
        collectives=collectives,
        total=max(in_turn, memory) + collectives,
    )
