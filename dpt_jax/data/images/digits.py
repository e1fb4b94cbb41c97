"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, in the library itself."""

import dataclasses

import numpy as np

from dpt_jax.data.images.examples import Images, check_split
from dpt_jax.data.images.pictures import resized
from dpt_jax.errors import InputError

# Images of a split; the rest, 1,297, are for training.
_HELD_OUT = {"validation": 100, "test": 400}


@dataclasses.dataclass(frozen=True)
class Digits:
    """The digits in a fixed split: 1,297 for training, 100 for validation and 400 for testing.

    Every split has its share of each class. Which image is in which does not depend on a seed.

    Attributes:
      labels: take these digits alone; None takes all ten.
    """

    labels: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """A short name."""
        return "digits" if self.labels is None else "digits" + "".join(map(str, self.labels))

    def load(self, split: str, size: int | None, channels: int) -> Images:
        """Reads a split; see `Source.load`."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        check_split(self.name, split, ("train", *_HELD_OUT))
        if channels not in (1, 3):
            raise InputError(
                f"{self.name} has images of 1 channel, or of 3 that are equal, but the ViT takes "
                f"{channels} (ViTConfig.channels). Use another model gin file."
            )
        found = load_digits()
        rest, parts = np.arange(len(found.target)), {}
        for name, count in _HELD_OUT.items():
            rest, parts[name] = train_test_split(
                rest, test_size=count, random_state=0, stratify=found.target[rest]
            )
        indices = np.sort(parts.get(split, rest))
        if self.labels is not None:
            indices = indices[np.isin(found.target[indices], self.labels)]
        # Values are from 0 to 16.
        pixels = np.round(found.images[indices] * (255 / 16)).astype(np.uint8)
        pixels = np.repeat(pixels[..., None], channels, axis=-1)
        if size is not None:
            pixels = np.stack([resized(image, size) for image in pixels])
        classes = tuple(map(str, range(10)))
        labels = found.target[indices].astype(np.int32)
        return Images(pixels, labels, classes, tuple(f"digits/{i}" for i in indices))
