"""The plain soft prompt of Lester et al. (2021)."""

from flax import linen as nn
from jaxtyping import Array, Float

from dpt_jax.prompts.base import SoftPrompt, declare_parameter
from dpt_jax.prompts.initializers import Initializer, uniform


class VanillaPrompt(SoftPrompt):
    """A prompt whose every number is a parameter of its own: P · D of them.

    Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning",
    EMNLP 2021, section 2.

    Attributes:
        prompt_init: draws `prompt`, `[length, embed]`. The default is the paper's uniform
            distribution over ±0.5; its best starting points are `SampledVocabulary` and
            `ClassLabels` (section 3.2), which need the model's embeddings.
    """

    prompt_init: Initializer = uniform(0.5)

    @nn.compact
    def __call__(self) -> Float[Array, "length embed"]:
        """Returns the prompt, float32 `[length, embed]`."""
        return declare_parameter(
            self,
            "prompt",
            self.prompt_init,
            (self.length, self.embed_dim),
            ("prompt_length", "prompt_embed"),
        )
