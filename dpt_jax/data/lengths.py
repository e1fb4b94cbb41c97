"""How long a task's examples are, and what padding them to buckets costs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dpt_jax.data.batching import choose_buckets

PERCENTILES = (0, 25, 50, 75, 90, 95, 99, 100)
NUM_BUCKETS = (1, 2, 4, 8, 16)


def percentiles(lengths: Sequence[int] | np.ndarray) -> dict[int, int]:
    """`PERCENTILES` of token counts: the least length that so many per cent do not exceed."""
    found = np.percentile(np.asarray(lengths), PERCENTILES, method="inverted_cdf")
    return dict(zip(PERCENTILES, found.astype(int).tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class PaddingCost:
    """What one choice of buckets costs.

    Attributes:
      num_buckets: NUM_BUCKETS that was asked for.
      buckets: the padded lengths, at most so many.
      real_tokens: tokens of all examples.
      padded_tokens: the same with the padding.
    """

    num_buckets: int
    buckets: tuple[int, ...]
    real_tokens: int
    padded_tokens: int

    @property
    def ratio(self) -> float:
        """Padded over real tokens; 1 is no padding."""
        return self.padded_tokens / max(self.real_tokens, 1)


def padding_cost(lengths: Sequence[int] | np.ndarray, num_buckets: int) -> PaddingCost:
    """The cost when every example is padded to the bucket it falls into.

    Training pads a little more: what is left over of a bucket fills batches of the next one.
    """
    lengths = np.asarray(lengths)
    buckets = choose_buckets(lengths, num_buckets)
    padded = np.asarray(buckets)[np.searchsorted(buckets, lengths)].sum()
    return PaddingCost(num_buckets, buckets, int(lengths.sum()), int(padded))
