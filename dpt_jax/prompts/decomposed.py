"""Decomposed prompt tuning (DPT): the prompt as a product of two thin matrices."""

import jax.numpy as jnp
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float

from dpt_jax.prompts.base import SoftPrompt, declare_parameter, require_size
from dpt_jax.prompts.initializers import Initializer, gaussian


class DecomposedPrompt(SoftPrompt):
    """A prompt `A @ B` with `A [P, b]` and `B [b, D]`: b · (P + D) parameters.

    Xiao et al., "Decomposed Prompt Tuning via Low-Rank Reparameterization", Findings of
    EMNLP 2023, section 3. The bottleneck b bounds the rank of the prompt; it may exceed
    min(P, D), where it only adds parameters (section 6.4).

    Attributes:
        bottleneck: b (gin macro `BOTTLENECK`).
        a_init: draws `A`, `[length, bottleneck]`.
        b_init: draws `B`, `[bottleneck, embed]`.

    Both factors start Gaussian, as in the paper, which gives no scale. With the standard deviation
    of 1 taken here, an entry of `A @ B` starts with one of sqrt(b), 3.2 for b = 10: the order of
    the vocabulary embeddings of T5 1.0, among which the prompt takes its place. The authors'
    released code draws both uniformly from ±0.5 instead, where an entry starts with sqrt(b) / 12.
    `truncated_svd` starts both factors from an existing prompt.

    Raises:
        ValueError: at construction, if a size is not a whole number of at least 1.
    """

    # A field after those of `SoftPrompt` needs a default; there is none that fits every length.
    bottleneck: int = 0
    a_init: Initializer = gaussian(1.0)
    b_init: Initializer = gaussian(1.0)

    def __post_init__(self):
        require_size(self, "bottleneck", "BOTTLENECK")
        super().__post_init__()

    @nn.compact
    def __call__(self) -> Float[Array, "length embed"]:
        """Returns `A @ B`, float32 `[length, embed]`."""
        a = declare_parameter(
            self,
            "A",
            self.a_init,
            (self.length, self.bottleneck),
            ("prompt_length", "bottleneck"),
        )
        b = declare_parameter(
            self,
            "B",
            self.b_init,
            (self.bottleneck, self.embed_dim),
            ("bottleneck", "prompt_embed"),
        )
        # Accelerators multiply float32 in reduced precision by default; the product is tiny, and
        # an exported prompt should equal the trained one.
        return jnp.matmul(a, b, precision=Precision.HIGHEST)
