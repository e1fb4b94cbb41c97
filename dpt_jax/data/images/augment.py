"""What the papers do to training images: crops and flips, drawn for each step."""

import numpy as np
from jaxtyping import UInt8

# "crop": a random crop of the network's size, and a flip; images are resized to more before.
# "pad": the same after four black pixels around (CIFAR's way). "none": the middle, as in
# evaluation.
AUGMENTATIONS = ("none", "crop", "pad")
_PADDING = 4

Pixels = UInt8[np.ndarray, "images height width channels"]


def augment(pixels: Pixels, size: int, how: str, rng: np.random.Generator) -> Pixels:
    """Crops and flips each image by a draw of its own.

    Args:
      pixels: images of at least `size` x `size` pixels.
      size: of the crops.
      how: one of `AUGMENTATIONS`.
      rng: draws offsets and flips.
    """
    if how == "none":
        return centre(pixels, size)
    if how == "pad":
        around = ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0))
        pixels = np.pad(pixels, around)
    count, height, width, _ = pixels.shape
    most = (height - size + 1, width - size + 1, 2)
    drawn = np.asarray(rng.integers(0, most, (count, 3)))
    made = np.empty((count, size, size, pixels.shape[-1]), pixels.dtype)
    for i, (row, column, flip) in enumerate(drawn.tolist()):
        crop = pixels[i, row : row + size, column : column + size]
        made[i] = crop[:, ::-1] if flip else crop
    return made


def centre(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle of images or masks, `[images, height, width, ...]`."""
    row, column = (pixels.shape[1] - size) // 2, (pixels.shape[2] - size) // 2
    return pixels[:, row : row + size, column : column + size]
