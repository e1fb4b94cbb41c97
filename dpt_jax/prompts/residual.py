"""Residual prompt tuning: a prompt reparameterized by a shared MLP with a skip connection."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float

from dpt_jax.prompts.base import SoftPrompt, declare_parameter, require_size
from dpt_jax.prompts.initializers import Initializer, uniform

# PyTorch's default for a linear layer's kernel, uniform over ±1/sqrt(fan in), which the authors'
# released code uses.
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ResidualPrompt(SoftPrompt):
    """A prompt `P + LayerNorm(W2 relu(W1 P))`, one MLP shared by all tokens.

    Razdaibiedina et al., "Residual Prompt Tuning: Improving Prompt Tuning with Residual
    Reparameterization", Findings of ACL 2023, section 3. Both layers have biases and the
    LayerNorm a scale and a bias: P·D + 2·D·h + h + 3·D parameters. The MLP is only needed for
    training; `fold` leaves a plain prompt.

    Attributes:
        hidden_dim: h, the width of the MLP.
        prompt_init: draws `prompt`, `[length, embed]`. The authors start from sampled vocabulary
            embeddings (`SampledVocabulary`).
        kernel_init: draws the kernels `[embed, hidden]` and `[hidden, embed]`; the biases start
            at 0 and the LayerNorm's scale at 1.

    Raises:
        ValueError: at construction, if a size is not a whole number of at least 1.
    """

    hidden_dim: int = 400
    prompt_init: Initializer = uniform(0.5)
    kernel_init: Initializer = _KERNEL_INIT

    def __post_init__(self):
        require_size(self, "hidden_dim", "prompts.ResidualPrompt.hidden_dim")
        super().__post_init__()

    @nn.compact
    def __call__(self) -> Float[Array, "length embed"]:
        """Returns the reparameterized prompt, float32 `[length, embed]`."""
        prompt = declare_parameter(
            self,
            "prompt",
            self.prompt_init,
            (self.length, self.embed_dim),
            ("prompt_length", "prompt_embed"),
        )
        hidden = _Dense(
            self.hidden_dim, ("prompt_embed", "prompt_mlp"), self.kernel_init, name="mlp_wi"
        )(prompt)
        update = _Dense(
            prompt.shape[-1], ("prompt_mlp", "prompt_embed"), self.kernel_init, name="mlp_wo"
        )(jax.nn.relu(hidden))
        return prompt + _LayerNorm(name="layer_norm")(update)


class _Dense(nn.Module):
    """`x @ kernel + bias`, with axis names."""

    features: int
    axes: tuple[str, str]
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "length inputs"]) -> Float[Array, "length features"]:
        kernel = declare_parameter(
            self, "kernel", self.kernel_init, (x.shape[-1], self.features), self.axes
        )
        bias = declare_parameter(
            self, "bias", nn.initializers.zeros, (self.features,), self.axes[1:]
        )
        return jnp.matmul(x, kernel, precision=Precision.HIGHEST) + bias


class _LayerNorm(nn.Module):
    """LayerNorm over the last dimension, with axis names.

    Unlike T5's own normalization it subtracts the mean and has a bias. The epsilon is PyTorch's
    default, as in the authors' released code.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "length embed"]) -> Float[Array, "length embed"]:
        shape, axes = (x.shape[-1],), ("prompt_embed",)
        scale = declare_parameter(self, "scale", nn.initializers.ones, shape, axes)
        bias = declare_parameter(self, "bias", nn.initializers.zeros, shape, axes)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias
