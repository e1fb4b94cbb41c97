"""A folder of pictures: a folder for each split, and in it one for each class."""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from dpt_jax.data.images.examples import Images, check_split
from dpt_jax.data.images.pictures import SUFFIXES, Unreadable, read_picture
from dpt_jax.errors import InputError

# What to do with files that cannot be read.
UNREADABLE = ("error", "drop")


@dataclasses.dataclass(frozen=True)
class Folder:
    """`PATH/train/CLASS/*.png`, with `validation` and `test` beside `train` as far as wanted.

    The classes are those of `train`, in the order of their names.

    Attributes:
      path: the folder.
      unreadable: "error", or "drop" to go on without pictures that cannot be read. They are
        counted and named in the log.
      convert: convert pictures of other channels, such as grey ones among colours.
    """

    path: str
    unreadable: str = "error"
    convert: bool = False

    def __post_init__(self):
        if self.unreadable not in UNREADABLE:
            raise InputError(
                f"Folder.unreadable is {self.unreadable!r}; it may be {' or '.join(UNREADABLE)}. "
                "Set --gin.Folder.unreadable."
            )

    @property
    def name(self) -> str:
        """The folder's own name."""
        return Path(self.path).expanduser().resolve().name

    def load(self, split: str, size: int | None, channels: int) -> Images:
        """Reads a split; see `Source.load`.

        Raises:
          InputError: also for a class without pictures, or one that `train` does not have, and for
            pictures that cannot be read.
        """
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise InputError(f"There is no folder {root}. Set --gin.Folder.path.")
        splits = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        if "train" not in splits:
            raise InputError(
                f"{root} has no folder 'train', only {', '.join(splits) or 'nothing'}. Its "
                "pictures go into train/CLASS. Set --gin.Folder.path."
            )
        check_split(str(root), split, splits)
        classes = _folders(root / "train")
        here = _folders(root / split)
        if unknown := sorted(set(here) - set(classes)):
            raise InputError(
                f"{root / split} has the class {unknown[0]!r}, which train does not have; it has "
                f"{', '.join(classes[:8])}. Move that folder."
            )
        pixels, labels, ids, bad = [], [], [], []
        for label, name in enumerate(classes):
            if name not in here:
                continue
            folder = root / split / name
            files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
            if not files:
                raise InputError(
                    f"{folder} has no pictures ({', '.join(SUFFIXES)}): a class without examples. "
                    "Add some, or remove the folder."
                )
            for file in files:
                try:
                    pixels.append(read_picture(file, size, channels, self.convert))
                except Unreadable as e:
                    bad.append(str(e))
                    continue
                labels.append(label)
                ids.append(f"{name}/{file.name}")
        self._settle(bad, root / split)
        _check_sizes(pixels, ids, root / split)
        shape = (0, size or 0, size or 0, channels)
        stacked = np.stack(pixels) if pixels else np.zeros(shape, np.uint8)
        return Images(
            stacked, np.asarray(labels, np.int32), tuple(classes), tuple(ids), None, tuple(bad)
        )

    def _settle(self, bad: list[str], where: Path) -> None:
        if not bad:
            return
        found = f"{len(bad)} of the pictures in {where} cannot be read, the first {bad[0]}"
        if self.unreadable == "error":
            raise InputError(
                f"{found}. Remove them, or go on without with --gin.Folder.unreadable=\"'drop'\"."
            )
        logging.warning("%s: dropped.", found)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _check_sizes(pixels: list[np.ndarray], ids: list[str], where: Path) -> None:
    for image, name in zip(pixels, ids, strict=True):
        if image.shape != pixels[0].shape:
            sizes = (f"{a.shape[0]} x {a.shape[1]}" for a in (image, pixels[0]))
            raise InputError(
                f"{where}: {name} is {' pixels, but '.join(sizes)} pixels is {ids[0]}. Set "
                "--gin.RESIZE to one size for all."
            )
