"""Labelled images: where they come from, the draws of few, and batches of them."""

from dpt_jax.data.images.digits import Digits
from dpt_jax.data.images.draw import Draw
from dpt_jax.data.images.examples import Images, Source
from dpt_jax.data.images.folder import Folder
from dpt_jax.data.images.tfds import Tfds

__all__ = ["Digits", "Draw", "Folder", "Images", "Source", "Tfds"]
