"""The spectrum of a soft prompt in numbers: singular values, energy, and how many directions count.

A prompt `[P, D]` of decomposed prompt tuning has at most b singular values that are not zero; how
many of them matter is the question of Xiao et al. (Findings of EMNLP 2023), section 2.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The singular values of a prompt and what follows from them.

    Attributes:
      length: P, the prompt's rows.
      width: D, the prompt's columns.
      singular_values: all min(P, D) of them, float64, largest first.
    """

    length: int
    width: int
    singular_values: Float[np.ndarray, "values"]

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of the singular values' shares; 0 for a zero prompt.

        Between 1 (one direction) and min(P, D) (all directions alike), and not whole in general:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007.
        """
        total = self.singular_values.sum()
        if total == 0:
            return 0.0
        shares = self.singular_values / total
        shares = shares[shares > 0]
        return float(np.exp(-np.sum(shares * np.log(shares))))

    @property
    def tolerance(self) -> float:
        """The size below which a singular value may be rounding: σ1 · max(P, D) · 2^-23.

        This is the default of `numpy.linalg.matrix_rank` for float32, in which prompts are kept.
        """
        largest = float(self.singular_values[0])
        return largest * max(self.length, self.width) * float(np.finfo(np.float32).eps)

    @property
    def numerical_rank(self) -> int:
        """How many singular values are above `tolerance`."""
        return int(np.count_nonzero(self.singular_values > self.tolerance))

    def rank_for_energy(self, share: float) -> int:
        """The fewest singular values that hold `share` of the energy, the sum of their squares.

        Equally, the rank of the smallest truncated SVD whose squared Frobenius error is at most
        `1 - share` of the prompt's squared norm. 0 for a zero prompt.

        Raises:
          ValueError: `share` is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must be above 0 and at most 1.")
        energy = np.cumsum(self.singular_values**2)
        if energy[-1] == 0:
            return 0
        # The sum is rounded: 9 of 10 equal values are to hold 90 % whichever way it goes.
        wanted = share * energy[-1] * (1 - 1e-12)
        return int(np.searchsorted(energy, wanted)) + 1

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "singular_values": self.singular_values.tolist(),
            "effective_rank": self.effective_rank,
            "numerical_rank": self.numerical_rank,
            "rank_for_90_percent_energy": self.rank_for_energy(0.9),
            "rank_for_99_percent_energy": self.rank_for_energy(0.99),
        }


def spectrum(prompt: Float[Any, "length embed"]) -> Spectrum:
    """Computes the spectrum of a prompt in float64.

    Args:
      prompt: an array `[P, D]` with at least one row and column, all numbers finite.

    Raises:
      ValueError: `prompt` has another number of axes, or is empty.
    """
    array = np.asarray(prompt, np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"A prompt is an array [length, width], not one of shape {array.shape}.")
    length, width = array.shape
    return Spectrum(length, width, np.linalg.svd(array, compute_uv=False))
