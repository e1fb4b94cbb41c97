"""Images of which a part decides the label: FULL-TILED, PARTIAL-TILED and EMBEDDED."""

from dpt_jax.data.contextual.backgrounds import BackgroundFolder, Photographs
from dpt_jax.data.contextual.tiling import Embedded, FullTiled, PartialTiled

__all__ = ["BackgroundFolder", "Embedded", "FullTiled", "PartialTiled", "Photographs"]
