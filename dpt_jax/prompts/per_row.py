"""One prompt for each row of a batch, for inference with several prompts at once."""

from flax import linen as nn
from jaxtyping import Array, Float

from dpt_jax.prompts.base import SoftPrompt, declare_parameter, require_size


class PromptPerRow(SoftPrompt):
    """Holds folded prompts, one for each row of a batch; not a method to train.

    Lester et al. (2021, section 2) batch several tasks through one frozen model this way.

    Attributes:
        batch_size: rows, each with a prompt of its own.
    """

    batch_size: int = 1

    def __post_init__(self):
        require_size(self, "batch_size", "BATCH_SIZE")
        super().__post_init__()

    @nn.compact
    def __call__(self) -> Float[Array, "batch length embed"]:
        """Returns the prompts, float32 `[batch, length, embed]`."""
        return declare_parameter(
            self,
            "prompts",
            nn.initializers.zeros,
            (self.batch_size, self.length, self.embed_dim),
            ("batch", "prompt_length", "prompt_embed"),
        )
