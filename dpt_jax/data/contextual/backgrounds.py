"""Photographs of which crops surround an embedded image."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dpt_jax.data.images.pictures import SUFFIXES, Unreadable, read_picture, resized
from dpt_jax.errors import InputError

# A crop is taken from so many times its own width, so that it shows more than flat colour.
_ZOOM = 4

Photo = UInt8[np.ndarray, "height width channels"]


def crop(photo: Photo, size: int, rng: np.random.Generator) -> Photo:
    """A random square of a photograph, made `size` pixels wide."""
    side = min(size * _ZOOM, *photo.shape[:2])
    row = int(rng.integers(0, photo.shape[0] - side + 1))
    column = int(rng.integers(0, photo.shape[1] - side + 1))
    return resized(np.ascontiguousarray(photo[row : row + side, column : column + side]), size)


def _part(photos: list[Photo], split: str) -> list[Photo]:
    """Left halves for training and right halves for the rest, so that no pixel is in both."""
    return [
        p[:, : p.shape[1] // 2] if split.startswith("train") else p[:, p.shape[1] // 2 :]
        for p in photos
    ]


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The two photographs that come with scikit-learn, a temple and a flower."""

    def load(self, split: str, channels: int) -> list[Photo]:
        """The photographs' halves that belong to a split."""
        from sklearn.datasets import load_sample_images

        photos = list(load_sample_images().images)
        if channels == 1:
            # The luminance that Pillow's mode L has.
            luma = np.array([0.299, 0.587, 0.114])
            photos = [np.round(p @ luma).astype(np.uint8)[..., None] for p in photos]
        return _part(photos, split)


@dataclasses.dataclass(frozen=True)
class BackgroundFolder:
    """A folder of photographs, such as some of ImageNet's; half of each for training.

    Attributes:
      path: the folder; pictures in folders inside it count, too.
    """

    path: str

    def load(self, split: str, channels: int) -> list[Photo]:
        """The photographs' halves that belong to a split.

        Raises:
          InputError: there are none, or one cannot be read.
        """
        root = Path(self.path).expanduser()
        files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(
                f"{root} has no photographs ({', '.join(SUFFIXES)}). Set "
                "--gin.BackgroundFolder.path."
            )
        try:
            return _part([read_picture(f, None, channels, convert=True) for f in files], split)
        except Unreadable as e:
            raise InputError(f"A photograph cannot be read: {e}. Remove it.") from e
