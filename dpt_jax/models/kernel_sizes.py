"""How the TPU's attention kernels divide their work, so that a part fits fast memory."""

import dataclasses
import math

# Numbers that one register's row holds.
_LANES = 128
# Of the 16 MiB of fast memory that a kernel has on every TPU.
_FAST_BYTES = 15 * 2**20
# What a kernel has there at once: bytes a score (float32 scores, weights and their gradients, and
# what the products take of them), and numbers a key of the block's width (keys, values, and their
# gradients, two blocks of each, one being copied).
_SCORE_BYTES = {"forward": 10, "backward": 18}
_KEY_NUMBERS = {"forward": 4, "backward": 8}
# Bytes a key of the block's width for the sums of their gradients.
_SUM_BYTES = {"forward": 0, "backward": 16}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The shape of an attention, and how the kernels divide it.

    Attributes:
      rows: batch, on one device.
      query: queries of a row.
      key: keys of a row.
      heads: heads, on one device.
      kv: width of a head.
      itemsize: bytes of a number.
      causal: whether a query sees no key behind its own place; the last query stands at the last
        key.
      bias_rows: rows of the bias, 1 where all rows share it; 0 without a bias.
    """

    rows: int
    query: int
    key: int
    heads: int
    kv: int
    itemsize: int
    causal: bool
    bias_rows: int

    @property
    def block_heads(self) -> int:
        """Heads in a block: the fewest that fill lanes, else all of them."""
        fewest = math.lcm(self.kv, _LANES) // self.kv
        return fewest if self.heads % fewest == 0 else self.heads

    @property
    def width(self) -> int:
        """Numbers of a position in a block."""
        return self.block_heads * self.kv

    def fitting(self, which: str) -> int:
        """Queries that fit fast memory with all keys, in the `forward` or the `backward` pass."""
        of_score = _SCORE_BYTES[which]
        if self.bias_rows:
            of_score += 2 * self.itemsize * self.block_heads
        of_key = (_KEY_NUMBERS[which] * self.itemsize + _SUM_BYTES[which]) * self.width
        return (_FAST_BYTES - of_key * self.key) // (of_score * self.key)

    def block_query(self, which: str) -> int:
        """Queries in a block; all of them, or a multiple of 128, as the layout of sums wants it."""
        most = max(self.fitting(which), _LANES)
        if self.query <= most:
            return self.query
        blocks = -(-self.query // (most // _LANES * _LANES))
        return -(-self.query // (blocks * _LANES)) * _LANES


def takes(key: int, kv: int, itemsize: int) -> str | None:
    """Why the kernels do not take an attention of this size; None where they do."""
    if kv % 8 or (kv > _LANES and kv % _LANES):
        return f"heads are {kv} wide, and the kernels take multiples of 8 up to 128, or of 128"
    heads = math.lcm(kv, _LANES) // kv
    if Sizes(1, _LANES, key, heads, kv, itemsize, False, 1).fitting("backward") < _LANES:
        return f"{key} keys do not fit a TPU's fast memory"
    return None
