"""Position embeddings for images of another size."""

import math

import numpy as np
from jaxtyping import Float

# Transformers interpolates a grid of positions by cubic convolution, Google's code linearly.
CUBIC, LINEAR = "cubic", "linear"
# The parameter of cubic convolution that PyTorch has.
_A = -0.75


def resize_positions(
    positions: Float[np.ndarray, "1+old embed"], grid: int, how: str
) -> Float[np.ndarray, "1+new embed"]:
    """Interpolates the positions of a square grid of patches; that of CLS stays.

    Args:
      positions: CLS first, then the patches row by row.
      grid: patches along a side, in the new grid.
      how: `CUBIC` as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`, or
        `LINEAR` as `scipy.ndimage.zoom(order=1)`, where the corners stay in their places.

    Returns:
      The positions in the dtype that was given, computed in float32.
    """
    old = math.isqrt(len(positions) - 1)
    along = _weights(old, grid, how)
    patches = positions[1:].astype(np.float32).reshape(old, old, -1)
    resized = np.einsum("ai,bj,ijd->abd", along, along, patches).reshape(grid * grid, -1)
    return np.concatenate([positions[:1], resized.astype(positions.dtype)])


def _weights(old: int, new: int, how: str) -> Float[np.ndarray, "new old"]:
    """How much of each old place goes into each new one."""
    weights = np.zeros((new, old))
    for i in range(new):
        if how == LINEAR:
            at = i * (old - 1) / (new - 1) if new > 1 else 0.0
            taps = {0: 1 - at % 1, 1: at % 1}
        else:
            at = (i + 0.5) * old / new - 0.5
            taps = {k: _cubic(abs(at % 1 - k)) for k in (-1, 0, 1, 2)}
        for k, weight in taps.items():
            # Beyond an edge, the edge goes on.
            weights[i, min(max(math.floor(at) + k, 0), old - 1)] += weight
    return weights.astype(np.float32)


def _cubic(distance: float) -> float:
    """Keys's cubic convolution kernel."""
    if distance <= 1:
        return (_A + 2) * distance**3 - (_A + 3) * distance**2 + 1
    return _A * (distance**3 - 5 * distance**2 + 8 * distance - 4)
