"""The frozen vision transformer: its configuration, network, and where prompts enter it."""

from dpt_jax.models.vit.config import ViTConfig
from dpt_jax.models.vit.network import VisionTransformer, abstract_variables
from dpt_jax.models.vit.prompts import PLACEMENTS, LayerPrompts

__all__ = [
    "PLACEMENTS",
    "LayerPrompts",
    "ViTConfig",
    "VisionTransformer",
    "abstract_variables",
]
