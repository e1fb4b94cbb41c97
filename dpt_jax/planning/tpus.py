"""Cloud TPU chips and slices: published rates, shapes, and how fast chips exchange data.

The figures per chip are those of Cloud TPU's documentation, "System architecture" and the pages on
TPU v4, v5e, v5p and v6e (cloud.google.com/tpu/docs): peak bfloat16 rate, HBM bandwidth, and
inter-chip interconnect (ICI) bandwidth, which is published as the sum over a chip's links in one
direction (1,600 Gbit/s of a v5e is 4 links of 50 GB/s). `usable_hbm_bytes` is what libtpu's
compiler says that a program may use, a little less than the chip has.
"""

import dataclasses
import math
from collections.abc import Sequence

from dpt_jax.errors import InputError, nearest_names

GIBIBYTE = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU chips.

    Attributes:
      name: its name in topologies, such as `v5e`.
      flops_per_second: peak of bfloat16 matrix products.
      hbm_bytes_per_second: bandwidth of the chip's memory.
      usable_hbm_bytes: memory that a program may use.
      link_bytes_per_second: one ICI link, one direction.
      torus_dimensions: 2 or 3; a chip has two links per dimension.
      wraps: whether a dimension of this size, in a slice of these sizes, is closed to a ring.
      slices: the slices that can be rented, up to 1024 chips.
    """

    name: str
    flops_per_second: float
    hbm_bytes_per_second: float
    usable_hbm_bytes: int
    link_bytes_per_second: float
    torus_dimensions: int
    slices: tuple[str, ...]

    def wraps(self, dimension: int, slice_shape: Sequence[int]) -> bool:
        """Whether that dimension of a slice is a ring: a whole pod's side, or 4 x 4 x 4 cubes."""
        if self.torus_dimensions == 2:
            return slice_shape[dimension] == 16
        return all(size % 4 == 0 for size in slice_shape)


_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = (
    "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16".split()  # as rented
)

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 1228e9, int(30.75 * GIBIBYTE), 50e9, 3, tuple(_3D[1:])),
        Chip("v5e", 197e12, 819e9, int(15.75 * GIBIBYTE), 50e9, 2, _2D),
        Chip("v5p", 459e12, 2765e9, int(95.74 * GIBIBYTE), 100e9, 3, tuple(_3D)),
        Chip("v6e", 918e12, 1640e9, int(31.25 * GIBIBYTE), 100e9, 2, _2D),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some chips with the links between them.

    Attributes:
      chip: the generation.
      shape: chips along each dimension of the torus.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As in `--topology`: `v5e:4x4`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """How many chips it has."""
        return math.prod(self.shape)

    @property
    def accelerator_type(self) -> str:
        """Cloud's name: v5e's and v6e's count chips, the older ones' count cores, two per chip."""
        prefix = {"v5e": "v5litepod"}.get(self.chip.name, self.chip.name)
        cores = 2 if self.chip.torus_dimensions == 3 else 1
        return f"{prefix}-{self.chips * cores}"

    def exchange_rate(self, members: Sequence[Sequence[int]]) -> float:
        """Bytes a second that every chip of a group can send while the whole group exchanges.

        Counted are the links along the dimensions in which the group extends: two where they
        close to a ring, else one, as the last chip of a row has no other. Groups whose members
        are `n` chips apart share their links with `n - 1` other groups.

        Args:
          members: coordinates of the group's chips in the slice.
        """
        rate = 0.0
        for dimension in range(len(self.shape)):
            places = sorted({member[dimension] for member in members})
            if len(places) == 1:
                continue
            stride = min(b - a for a, b in zip(places, places[1:], strict=False))
            closed = len(places) * stride == self.shape[dimension]
            ring = closed and self.chip.wraps(dimension, self.shape)
            rate += (2 if ring else 1) * self.chip.link_bytes_per_second / stride
        return rate


def parse_topology(name: str) -> Slice:
    """Reads `v5e:4x4`.

    Raises:
      InputError: when there is no such slice; the known ones are listed.
    """
    generation, _, shape = name.strip().lower().partition(":")
    chip = CHIPS.get(generation)
    if chip is None or shape not in chip.slices:
        known = [f"{c.name}:{s}" for c in CHIPS.values() for s in c.slices]
        lines = "".join(f"\n  {c.name}: {', '.join(c.slices)}" for c in CHIPS.values())
        raise InputError(
            f"There is no TPU topology {name!r}.{nearest_names(name, known)} Set --topology to a "
            f"chip and a slice, such as v5e:4x4. The known ones:{lines}"
        )
    return Slice(chip, tuple(int(n) for n in shape.split("x")))
