"""The labelled images of a split, in memory."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int, UInt8

from dpt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of one size with their labels.

    Attributes:
      pixels: the images.
      labels: the class of each.
      classes: the classes' names.
      ids: what tells one image from another, in all splits and every order: a file's name, or its
        place in a data set. Draws of few images go by these.
      relevant: pixels that belong to what the label says, where that is known.
      dropped: what was left out because it could not be read.
    """

    pixels: UInt8[np.ndarray, "images height width channels"]
    labels: Int[np.ndarray, "images"]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    relevant: Bool[np.ndarray, "images height width"] | None = None
    dropped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """Some of the images, in the order given."""
        chosen = np.asarray(indices, int)
        return dataclasses.replace(
            self,
            pixels=self.pixels[chosen],
            labels=self.labels[chosen],
            ids=tuple(self.ids[i] for i in chosen),
            relevant=None if self.relevant is None else self.relevant[chosen],
        )

    def checksum(self) -> int:
        """Tells one set of images, in one order, from another."""
        crc = zlib.crc32(np.ascontiguousarray(self.pixels).tobytes())
        return zlib.crc32(self.labels.astype(np.int32).tobytes(), crc)


class Source(Protocol):
    """Where labelled images come from; gin binds one to `DATA`."""

    @property
    def name(self) -> str:
        """A short name, which names files."""

    def load(self, split: str, size: int | None, channels: int) -> Images:
        """Reads a split.

        Args:
          split: `train`, `validation`, `test` or another one that the source knows.
          size: height and width to resize every image to; None takes them as they are.
          channels: the channels that the images must have.

        Raises:
          InputError: for a split that there is not, images of other channels or of several sizes,
            or a data set that is not here.
        """


def check_split(name: str, split: str, known: Sequence[str]) -> None:
    """Raises InputError for a split that a source does not have."""
    if split not in known:
        raise InputError(
            f"{name} has no split {split!r}; it has {', '.join(known)}. Set "
            "--gin.ImageRunConfig.train_split or --gin.ImageRunConfig.eval_split."
        )


def check_images(images: Images, where: str, size: int, channels: int) -> None:
    """Checks that images and labels are what a network takes.

    Args:
      images: a split.
      where: how messages name it.
      size: height and width that the network's images are cut from, at least.
      channels: the network's.

    Raises:
      InputError: for images of another size or number of channels, no images at all, a label
        outside the classes, or a mask that does not fit.
    """
    if not len(images):
        raise InputError(f"{where} has no images. Change --gin.DATA or its split.")
    _, height, width, found = images.pixels.shape
    if found != channels:
        raise InputError(
            f"{where}: the images have {found} channels, but the ViT takes {channels} "
            "(ViTConfig.channels). Use a source of that many, or another model gin file."
        )
    if height < size or width < size:
        raise InputError(
            f"{where}: the images are {height} x {width} pixels, but the ViT takes {size} x {size} "
            "(ViTConfig.image_size). Set --gin.RESIZE to that or more."
        )
    outside = (images.labels < 0) | (images.labels >= len(images.classes))
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"{where}: image {images.ids[i]} has the label {int(images.labels[i])}, but there are "
            f"{len(images.classes)} classes, 0 to {len(images.classes) - 1}; {int(outside.sum())} "
            "such labels in all. Change the data set of --gin.DATA."
        )
    if images.relevant is not None and images.relevant.shape != images.pixels.shape[:3]:
        raise InputError(
            f"{where}: the mask of relevant pixels has the shape {images.relevant.shape}, but the "
            f"images have {images.pixels.shape[:3]}. Change the data set of --gin.DATA."
        )
