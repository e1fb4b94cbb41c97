"""Pictures as arrays, by Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dpt_jax.errors import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# The modes of pictures that have so many channels.
_MODES = {1: ("L", "1"), 3: ("RGB", "P", "CMYK", "YCbCr")}
_WANTED = {1: "L", 3: "RGB"}

Picture = UInt8[np.ndarray, "height width channels"]


class Unreadable(Exception):
    """A file that should be a picture, and cannot be decoded."""


def pillow() -> Any:
    """Pillow's `Image`.

    Raises:
      InputError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise InputError("Pictures need Pillow: install dpt-jax[images].") from e
    return Image


def resized(pixels: Picture, size: int) -> Picture:
    """A picture of `size` x `size` pixels, by bilinear interpolation; the sides are not kept."""
    if pixels.shape[:2] == (size, size):
        return pixels
    image = pillow()
    plane = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    made = image.fromarray(plane).resize((size, size), image.Resampling.BILINEAR)
    return np.asarray(made).reshape(size, size, pixels.shape[-1])


def read_picture(path: Path, size: int | None, channels: int, convert: bool) -> Picture:
    """Reads a picture.

    Args:
      path: its file.
      size: see `Source.load`.
      channels: how many it must have.
      convert: make a picture of other channels one of these (grey to three equal ones, colour to
        grey, transparency left out), instead of refusing it.

    Raises:
      Unreadable: the file is damaged, or no picture.
      InputError: the picture has other channels.
    """
    image = pillow()
    if channels not in _WANTED:
        raise InputError(
            f"{path}: pictures have 1 or 3 channels, but the ViT takes {channels} "
            "(ViTConfig.channels). Use another model gin file."
        )
    try:
        with image.open(path) as opened:
            mode = opened.mode
            if mode not in _MODES[channels] and not convert:
                raise InputError(
                    f"{path} has the channels {'+'.join(opened.getbands())}, but the ViT takes "
                    f"{channels}. Set --gin.Folder.convert=True to convert such pictures."
                )
            pixels = np.asarray(opened.convert(_WANTED[channels]))
    except InputError:
        raise
    # Pillow's decoders raise whatever they stumble over; `SyntaxError` for a broken PNG.
    except (OSError, ValueError, SyntaxError, EOFError, image.DecompressionBombError) as e:
        raise Unreadable(f"{path}: {e}") from e
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    return pixels if size is None else resized(pixels, size)
