"""Whether attention selects what is relevant: its share there, over the share of the area.

1 is no selection. NumPy alone.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

# Resamplings of a bootstrap.
_RESAMPLED = 1000

Attention = Float[np.ndarray, "images layers heads patches"]
Shares = Float[np.ndarray, "images patches"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """The mean over images of attention's relevant share over that of the area.

    Attributes:
      ratio: of each layer and head.
      by_layer: of each layer, its heads together.
      low: lower end of `by_layer`'s 95 % bootstrap interval over images.
      high: upper end.
    """

    ratio: Float[np.ndarray, "layers heads"]
    by_layer: Float[np.ndarray, "layers"]
    low: Float[np.ndarray, "layers"]
    high: Float[np.ndarray, "layers"]

    def to_json(self) -> dict[str, list]:
        """All of it, as lists."""
        return {
            field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)
        }


def ratios(attention: Attention, relevant: Shares) -> Float[np.ndarray, "images layers heads"]:
    """Attention's share on relevant patches, over their share of the area.

    Args:
      attention: weights on patches, which sum to 1.
      relevant: the relevant share of each patch; images where all or nothing is relevant say
        nothing, and must have been left out.
    """
    area = relevant.mean(axis=-1)
    return np.einsum("ilhp,ip->ilh", attention, relevant) / area[:, None, None]


def selection(attention: Attention, relevant: Shares, seed: int = 0) -> Selection:
    """What attention selects; arguments are those of `ratios`."""
    return summary(ratios(attention, relevant), seed)


def summary(ratios: Float[np.ndarray, "images layers heads"], seed: int = 0) -> Selection:
    """Means over images, or rows of text, of ratios that each of them has."""
    by_layer = ratios.mean(axis=-1)
    low, high = bootstrap(by_layer, seed)
    return Selection(ratios.mean(axis=0), by_layer.mean(axis=0), low, high)


def null(attention: Attention, relevant: Shares, seed: int = 0) -> Selection:
    """The same with the masks of other images: what position alone gives."""
    order = np.random.default_rng(seed).permutation(len(relevant))
    # Shifted along a random circle, so that no image keeps its own.
    turned = np.empty_like(relevant)
    turned[order] = relevant[np.roll(order, 1)]
    return selection(attention, turned, seed)


def bootstrap(
    values: Float[np.ndarray, "images columns"], seed: int = 0
) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "columns"]]:
    """Ends of the 95 % percentile interval of each column's mean, images resampled."""
    count = len(values)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLED) / count
    low, high = np.quantile(weights @ values, (0.025, 0.975), axis=0)
    return low, high


def informative(relevant: Shares) -> np.ndarray:
    """Indices of the images of which a part is relevant, and not all or nothing."""
    area = relevant.mean(axis=-1)
    return np.flatnonzero((area > 0) & (area < 1))
