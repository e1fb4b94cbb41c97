"""Images as the arrays of a batch."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from dpt_jax.data.batching import Sampler
from dpt_jax.data.images.augment import augment, centre
from dpt_jax.data.images.examples import Images


@dataclasses.dataclass
class TrainImages:
    """The training images and their order: a batch is a function of the seed and the step.

    Attributes:
      images: what is trained on.
      size: height and width that the network takes.
      augmentation: one of `augment.AUGMENTATIONS`.
      batch_size: rows of a batch.
      seed: of order and augmentation.
    """

    images: Images
    size: int
    augmentation: str
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        self._sampler = Sampler((len(self.images),), (1.0,), self.seed)
        self._epochs: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last may be short."""
        return -(-len(self.images) // self.batch_size)

    @property
    def blanks(self) -> list[dict[str, np.ndarray]]:
        """A batch of padding."""
        shape = (self.batch_size, self.size, self.size, self.images.pixels.shape[-1])
        labels = np.zeros(self.batch_size, np.int32)
        return [
            {
                "images": np.zeros(shape, np.uint8),
                "labels": labels,
                "weights": labels.astype(np.float32),
            }
        ]

    def batch(self, step: int, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The batch of an update: `images` uint8, `labels` int32, and `weights`, 0 for padding.

        Args:
          step: updates made before, from 0.
          rows: which rows of the whole batch to give, ascending; None gives all.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            self._epochs = {epoch: self._sampler.epoch(epoch)}
        indices = self._epochs[epoch][place * self.batch_size : (place + 1) * self.batch_size]
        rows = np.arange(self.batch_size) if rows is None else rows
        # Each row draws for itself, so that a process's share is that of the whole batch.
        made = np.zeros((len(rows), self.size, self.size, self.images.pixels.shape[-1]), np.uint8)
        labels, weights = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32)
        for i, row in enumerate(rows):
            if row < len(indices):
                index = int(indices[row])
                rng = np.random.default_rng([self.seed, 3, step, int(row)])
                pixels = self.images.pixels[index : index + 1]
                made[i] = augment(pixels, self.size, self.augmentation, rng)[0]
                labels[i], weights[i] = self.images.labels[index], 1.0
        return {"images": made, "labels": labels, "weights": weights}

    def describe(self) -> str:
        """The numbers that people want to see before a run starts."""
        return (
            f"{len(self.images):,} images of {len(self.images.classes)} classes, "
            f"{self.steps_per_epoch:,} steps per epoch, {self.size} x {self.size} pixels"
        )


def evaluation_batches(
    images: Images, size: int, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """`(indices, batch)` pairs that cover every image once; rows beyond the indices are padding."""
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        pixels = centre(images.pixels[indices], size)
        short = batch_size - len(indices)
        yield indices, {"images": np.pad(pixels, ((0, short), (0, 0), (0, 0), (0, 0)))}
