"""Soft prompts for every layer of a transformer, made of any method for one."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from dpt_jax.prompts import SoftPrompt, shape_only

# Where prompts enter a ViT: at the input alone, in every layer, or in every layer without becoming
# keys of what is there.
PLACEMENTS = ("shallow", "deep", "hidden")


class LayerPrompts(nn.Module):
    """A prompt `[P, D]` for each layer, each of the same method.

    Attributes:
      prompt: the method, with a layer's P and D.
      num_layers: layers.
      shared_a: the layers share what a decomposed prompt `A @ B` has for its tokens: one `A [P, b]`
        and a `B [b, D]` for each layer. That is a decomposed prompt which is as wide as all layers
        together.
    """

    prompt: SoftPrompt
    num_layers: int
    shared_a: bool = False

    def setup(self):
        if self.shared_a:
            width = self.prompt.embed_dim
            assert width is not None  # The run's configuration has filled it in.
            self.all_layers = self.prompt.clone(parent=None, embed_dim=self.num_layers * width)
        else:
            self.layers = [self.prompt.clone(parent=None) for _ in range(self.num_layers)]

    def __call__(self) -> Float[Array, "layers length embed"]:
        """Every layer's prompt, float32."""
        if not self.shared_a:
            return jnp.stack([layer() for layer in self.layers])
        joined = self.all_layers().reshape(self.prompt.length, self.num_layers, -1)
        return jnp.moveaxis(joined, 1, 0)

    @property
    def length(self) -> int:
        """Prompt tokens of a layer, P."""
        return self.prompt.length

    @nn.nowrap
    def initialize(self, rng: jax.Array) -> dict[str, Any]:
        """Draws the initial parameters, as `SoftPrompt.initialize` does."""
        return dict(self.clone(parent=None).init(rng)["params"])

    @nn.nowrap
    def without_initializers(self) -> "LayerPrompts":
        """The same for shapes alone; see `dpt_jax.prompts.shape_only`."""
        return self.clone(parent=None, prompt=shape_only(self.prompt))
