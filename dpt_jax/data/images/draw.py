"""Draws of few training images: the same for all methods."""

import dataclasses
import hashlib
import math

import numpy as np

from dpt_jax.data.images.examples import Images
from dpt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which of the training images are taken: a function of their ids and the seed.

    The images of each class are put in the order of a hash of the seed and their id, and the first
    are taken. So neither their order nor a library's random numbers matter, and for the same seed a
    larger draw contains the smaller.

    Attributes:
      shots: images of each class; None takes a share.
      percent: share of each class, rounded up, so that no class is without an image; 100 takes all.
      seed: which draw.
    """

    shots: int | None = None
    percent: float = 100.0
    seed: int = 0

    def __post_init__(self):
        whole = isinstance(self.shots, int) and not isinstance(self.shots, bool)
        if self.shots is not None and (not whole or self.shots < 1):
            raise InputError(
                f"SHOTS is {self.shots!r}; it must be a number of images of each class, from 1, or "
                "None. Set --gin.SHOTS."
            )
        if not isinstance(self.percent, int | float) or not 0 < self.percent <= 100:
            raise InputError(
                f"PERCENT is {self.percent!r}; it must be above 0 and at most 100. Set "
                "--gin.PERCENT."
            )
        if self.shots is not None and self.percent != 100:
            raise InputError(
                f"SHOTS = {self.shots} and PERCENT = {self.percent} both say how much to draw. Set "
                "one of --gin.SHOTS and --gin.PERCENT."
            )

    def __call__(self, images: Images) -> Images:
        """The drawn images, in the order in which they were.

        Raises:
          InputError: when a class has fewer than `shots`.
        """
        if self.shots is None and self.percent == 100:
            return images
        chosen: list[int] = []
        for label, name in enumerate(images.classes):
            members = np.flatnonzero(images.labels == label)
            count = self.shots or math.ceil(len(members) * self.percent / 100)
            if count > len(members):
                raise InputError(
                    f"SHOTS = {self.shots} images of class {name!r} cannot be drawn: there are "
                    f"only {len(members)}. Lower --gin.SHOTS."
                )
            chosen += sorted(members.tolist(), key=lambda i: self._place(images.ids[i]))[:count]
        return images.take(sorted(chosen))

    def _place(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.seed} {name}".encode()).digest()

    @property
    def name(self) -> str:
        """What tells this draw from others, in a file's name; nothing for all images."""
        if self.shots is not None:
            return f"_k{self.shots}_s{self.seed}"
        return "" if self.percent == 100 else f"_p{self.percent:g}_s{self.seed}"
