"""A prompt cut to its first directions: the best approximation of each rank, and what it misses."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from dpt_jax.analysis.spectrum import Spectrum, spectrum

DEFAULT_RANKS = (1, 2, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Truncation:
    """The best approximation of a prompt with a given rank.

    Attributes:
      rank: how many directions are kept.
      energy: the share of the squared singular values that they hold, 0 to 1.
      error: the Frobenius norm of what is missed, as a share of the prompt's own, 0 to 1.
      prompt: the approximation, float32 `[P, D]`.
    """

    rank: int
    energy: float
    error: float
    prompt: Float[np.ndarray, "length embed"]


def truncate(prompt: Float[np.ndarray, "length embed"], ranks: Iterable[int]) -> list[Truncation]:
    """The best approximations of a prompt, by its truncated singular value decomposition.

    No matrix of that rank is nearer, in the Frobenius norm or in the spectral norm (Eckart and
    Young, 1936). Ranks above min(P, D) are left out; computed in float64.

    Raises:
      ValueError: for a rank below 1.
    """
    ranks = sorted(set(ranks))
    if ranks and ranks[0] < 1:
        raise ValueError(f"A rank is {ranks[0]}; it must be at least 1.")
    u, s, vt = np.linalg.svd(np.asarray(prompt, np.float64), full_matrices=False)
    squares = s**2
    total = squares.sum()
    made = []
    for rank in ranks:
        if rank > len(s):
            continue
        # Summed apart, so that a small rest is not the difference of two large numbers.
        missed = squares[rank:].sum()
        share = missed / total if total else 0.0
        kept = ((u[:, :rank] * s[:rank]) @ vt[:rank]).astype(np.float32)
        made.append(Truncation(rank, float(1 - share), float(np.sqrt(share)), kept))
    return made


def ranks_for(prompt: Float[np.ndarray, "length embed"]) -> list[int]:
    """The usual ranks up to that of the prompt, and that rank itself."""
    rank = max(spectrum(prompt).numerical_rank, 1)
    return [r for r in DEFAULT_RANKS if r < rank] + [rank]


def energy_curve(of: Spectrum) -> Float[np.ndarray, "values"]:
    """The share of the energy in the first 1, 2, ... directions; zeros for a zero prompt."""
    energy = np.cumsum(of.singular_values**2)
    return energy / energy[-1] if energy[-1] else energy
