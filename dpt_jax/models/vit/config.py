"""Hyperparameters of a vision transformer."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from dpt_jax.models.config import REMAT_POLICIES

# The error function's GELU, and the tanh form that approximates it.
GELUS = ("exact", "tanh")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Shape and numerics of a ViT (Dosovitskiy et al., 2021); the defaults are ViT-B/16's.

    Attributes:
      image_size: height and width of an image, in pixels.
      patch_size: height and width of a patch, in pixels.
      channels: channels of an image.
      emb_dim: width of the residual stream, D.
      num_layers: layers.
      num_heads: attention heads, H; they divide `emb_dim`.
      mlp_dim: width of the MLP's hidden layer.
      gelu: which GELU the MLP has, one of `GELUS`. It travels with the weights: Transformers' ViTs
        were trained with the exact one, Google's with tanh.
      epsilon: what layer norm adds to the variance; 1e-12 in Transformers' ViTs, 1e-6 in Google's.
      num_classes: outputs of the linear head on CLS; 0 is a ViT without a head.
      dtype: dtype of the activations, `float32` or `bfloat16`; a name is accepted too.
      remat_policy: what a layer keeps for the backward pass, as in `T5Config`.
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    emb_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    gelu: str = "exact"
    epsilon: float = 1e-12
    num_classes: int = 0
    dtype: Any = jnp.float32
    remat_policy: str = "none"

    def __post_init__(self):
        sizes = "image_size patch_size channels emb_dim num_layers num_heads mlp_dim num_classes"
        for name in sizes.split():
            value, least = getattr(self, name), int(name != "num_classes")
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"ViTConfig.{name} is {value!r}; it must be an integer of at least {least}."
                )
        for whole, part in (("image_size", "patch_size"), ("emb_dim", "num_heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"ViTConfig.{whole} = {getattr(self, whole)} is no multiple of {part} = "
                    f"{getattr(self, part)}."
                )
        for name, known in (("gelu", GELUS), ("remat_policy", REMAT_POLICIES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"ViTConfig.{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(known)}."
                )
        if not isinstance(self.epsilon, int | float) or self.epsilon < 0:
            raise ValueError(f"ViTConfig.epsilon is {self.epsilon!r}; it must be a number from 0.")
        try:
            object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        except TypeError as e:
            raise ValueError(
                f"ViTConfig.dtype is {self.dtype!r}; it must be 'float32' or 'bfloat16'. Set "
                "--gin.DTYPE."
            ) from e
        if self.dtype not in (jnp.float32, jnp.bfloat16):
            raise ValueError(
                f"ViTConfig.dtype is {self.dtype.name!r}; it must be 'float32' or 'bfloat16'. Set "
                "--gin.DTYPE."
            )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.emb_dim // self.num_heads

    @property
    def grid(self) -> int:
        """Patches along each side of an image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of an image, N; a ViT has N + 1 positions, CLS being the first."""
        return self.grid**2

    # A prefix asks for the layers of a transformer's stacks under these names.

    @property
    def num_encoder_layers(self) -> int:
        """Layers of the encoder, which is all there is."""
        return self.num_layers

    @property
    def num_decoder_layers(self) -> int:
        """A ViT has no decoder."""
        return 0
