"""Contextual data sets made from any labelled images, with the mask of what is relevant.

After Oymak, Rawat, Soltanolkotabi and Thrampoulidis, "On the Role of Attention in Prompt-tuning"
(ICML 2023), section 5, following its abstract and a summary: sizes, grids and fills are our
reading, and are settings. Every split is made before it is tiled, so that no image is in two of
them. A sample's places are a function of its image's id and the seed, whatever else is drawn.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool

from dpt_jax.data.contextual.backgrounds import Photographs, crop
from dpt_jax.data.images.examples import Images, Source
from dpt_jax.errors import InputError

# What irrelevant tiles hold: noise of the image's own mean and deviation, an image of another class
# of the same split, or black.
FILLS = ("gauss", "other", "zeros")

# Makes one sample and its mask.
_Make = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def _samples(source: Source, tiles: Images, seed: int, make: _Make) -> Images:
    made = []
    for i, name in enumerate(tiles.ids):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        made.append(make(i, rng))
    if not made:
        raise InputError(f"{source.name} has no images to make others from. Change --gin.DATA.")
    pixels, masks = (np.stack(part) for part in zip(*made, strict=True))
    return dataclasses.replace(tiles, pixels=pixels, relevant=masks)


def _check_grid(kind: str, grid: int) -> None:
    if not isinstance(grid, int) or grid < 1:
        raise InputError(
            f"{kind}.grid is {grid!r}; it must be a number of tiles along a side, from 1. Set "
            f"--gin.{kind}.grid."
        )


@dataclasses.dataclass(frozen=True)
class FullTiled:
    """FULL-TILED: the same image in every tile; all of it is relevant.

    Attributes:
      source: the images, of which each becomes a tile.
      grid: tiles along a side.
    """

    source: Any
    grid: int = 3

    def __post_init__(self):
        _check_grid("FullTiled", self.grid)

    @property
    def name(self) -> str:
        """A short name, which names files."""
        return f"full_tiled_{self.source.name}"

    def load(self, split: str, size: int | None, channels: int) -> Images:
        """Makes a split; `size` is that of a tile."""
        tiles = self.source.load(split, size, channels)
        repeat = (self.grid, self.grid, 1)

        def make(i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            del rng
            whole = np.tile(tiles.pixels[i], repeat)
            return whole, np.ones(whole.shape[:2], bool)

        return _samples(self.source, tiles, 0, make)


@dataclasses.dataclass(frozen=True)
class PartialTiled:
    """PARTIAL-TILED: the same image in some tiles at random places, and other things elsewhere.

    Attributes:
      source: the images.
      grid: tiles along a side.
      fill: what is in irrelevant tiles, one of `FILLS`.
      min_irrelevant: least number of irrelevant tiles; None is half, rounded up. At least one tile
        stays relevant, and every number between is as likely.
      seed: of places and fills.
    """

    source: Any
    grid: int = 3
    fill: str = "gauss"
    min_irrelevant: int | None = None
    seed: int = 0

    def __post_init__(self):
        _check_grid("PartialTiled", self.grid)
        if self.fill not in FILLS:
            raise InputError(
                f"PartialTiled.fill is {self.fill!r}; it may be {', '.join(FILLS)}. Set "
                "--gin.PartialTiled.fill."
            )
        least, count = self._least, self.grid**2
        if not isinstance(least, int) or not 0 <= least < count:
            raise InputError(
                f"PartialTiled.min_irrelevant is {least!r}; it must be from 0 to {count - 1}: "
                f"one of the {count} tiles stays relevant. Set --gin.PartialTiled.min_irrelevant."
            )

    @property
    def _least(self) -> int:
        half = self.grid**2 // 2
        return (
            min(half + self.grid % 2, self.grid**2 - 1)
            if self.min_irrelevant is None
            else (self.min_irrelevant)
        )

    @property
    def name(self) -> str:
        """A short name, which names files."""
        return f"partial_tiled_{self.source.name}"

    def load(self, split: str, size: int | None, channels: int) -> Images:
        """Makes a split; `size` is that of a tile."""
        tiles = self.source.load(split, size, channels)
        count = self.grid**2
        height, width = tiles.pixels.shape[1:3]

        def make(i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            irrelevant = rng.permutation(count)[: rng.integers(self._least, count)]
            whole = np.tile(tiles.pixels[i], (self.grid, self.grid, 1))
            mask = np.ones(whole.shape[:2], bool)
            for place in np.sort(irrelevant):
                row, column = divmod(int(place), self.grid)
                part = (
                    slice(row * height, (row + 1) * height),
                    slice(column * width, (column + 1) * width),
                )
                whole[part] = self._filling(tiles, i, rng)
                mask[part] = False
            return whole, mask

        return _samples(self.source, tiles, self.seed, make)

    def _filling(self, tiles: Images, i: int, rng: np.random.Generator) -> np.ndarray:
        tile = tiles.pixels[i]
        if self.fill == "zeros":
            return np.zeros_like(tile)
        if self.fill == "gauss":
            noise = rng.normal(tile.mean(), tile.std(), tile.shape)
            return np.clip(np.round(noise), 0, 255).astype(np.uint8)
        others = np.flatnonzero(tiles.labels != tiles.labels[i])
        if not len(others):
            raise InputError(
                f"PartialTiled.fill is 'other', but all images of {self.source.name} are of one "
                "class. Set --gin.PartialTiled.fill."
            )
        return tiles.pixels[rng.choice(others)]


@dataclasses.dataclass(frozen=True)
class Embedded:
    """EMBEDDED: one image at a random place on a crop of a photograph.

    Attributes:
      source: the images.
      canvas: height and width of a sample, in images.
      backgrounds: where photographs come from.
      step: offsets are multiples of so many pixels; the patch size keeps the mask in whole patches.
      seed: of places and crops.
    """

    source: Any
    canvas: int = 3
    backgrounds: Any = dataclasses.field(default_factory=Photographs)
    step: int = 1
    seed: int = 0

    def __post_init__(self):
        _check_grid("Embedded", self.canvas)
        if not isinstance(self.step, int) or self.step < 1:
            raise InputError(
                f"Embedded.step is {self.step!r}; it must be a number of pixels, from 1. Set "
                "--gin.Embedded.step."
            )

    @property
    def name(self) -> str:
        """A short name, which names files."""
        return f"embedded_{self.source.name}"

    def load(self, split: str, size: int | None, channels: int) -> Images:
        """Makes a split; `size` is that of the embedded image."""
        tiles = self.source.load(split, size, channels)
        photos = self.backgrounds.load(split, channels)
        height, width = tiles.pixels.shape[1:3]
        whole_size = height * self.canvas
        if height != width:
            raise InputError(
                f"{self.source.name} has images of {height} x {width} pixels, which are no "
                "squares. Set --gin.RESIZE."
            )

        def make(i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            whole = crop(photos[int(rng.integers(len(photos)))], whole_size, rng).copy()
            places = rng.integers(0, (whole_size - height) // self.step + 1, 2) * self.step
            row, column = map(int, places)
            part = slice(row, row + height), slice(column, column + width)
            whole[part] = tiles.pixels[i]
            mask = np.zeros(whole.shape[:2], bool)
            mask[part] = True
            return whole, mask

        return _samples(self.source, tiles, self.seed, make)


def patch_shares(masks: Bool[np.ndarray, "images height width"], patch_size: int) -> np.ndarray:
    """The relevant share of each patch, float32 `[images, patches]`, patches row by row.

    Raises:
      InputError: when patches do not tile the masks.
    """
    count, height, width = masks.shape
    if height % patch_size or width % patch_size:
        raise InputError(
            f"The masks are {height} x {width} pixels, which patches of {patch_size} do not tile. "
            "Set --gin.ViTConfig.image_size to the images' own size."
        )
    split = masks.reshape(count, height // patch_size, patch_size, width // patch_size, patch_size)
    return split.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)
