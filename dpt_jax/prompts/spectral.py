"""The rank probe: a prompt with a learned, rectified spectrum."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float

from dpt_jax.prompts.base import SoftPrompt, declare_parameter
from dpt_jax.prompts.initializers import Initializer, gaussian


class SpectralPrompt(SoftPrompt):
    """A prompt `U @ relu(diag(sigma)) @ V`, with P · (P + 1 + D) parameters.

    Xiao et al., "Decomposed Prompt Tuning via Low-Rank Reparameterization", Findings of
    EMNLP 2023, section 2. It is a probe, not a method to deploy: the rectifier closes a direction
    whose entry of `sigma` turns negative, so the count of positive entries during training shows
    the rank that the prompt makes use of.

    Attributes:
        u_init: draws `U`, `[length, length]`. The default has columns of expected norm 1.
        sigma_init: draws `sigma`, `[length]`; it must give positive numbers, since a closed
            direction gets no gradient. The default is 1 everywhere, so that no direction is
            favoured at the start.
        v_init: draws `V`, `[length, embed]`. With the defaults, an entry of the prompt starts
            with a standard deviation of 1.
    """

    u_init: Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    sigma_init: Initializer = nn.initializers.ones
    v_init: Initializer = gaussian(1.0)

    @nn.compact
    def __call__(self) -> Float[Array, "length embed"]:
        """Returns `U @ relu(diag(sigma)) @ V`, float32 `[length, embed]`."""
        u = declare_parameter(
            self, "U", self.u_init, (self.length, self.length), ("prompt_length", "rank")
        )
        sigma = declare_parameter(self, "sigma", self.sigma_init, (self.length,), ("rank",))
        v = declare_parameter(
            self, "V", self.v_init, (self.length, self.embed_dim), ("rank", "prompt_embed")
        )
        return jnp.matmul(u * jax.nn.relu(sigma), v, precision=Precision.HIGHEST)

    @nn.nowrap
    def diagnostics(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Counts the open directions (section 2 of the paper) and the rank of the prompt itself.

        Returns:
            `positive_entries` and `negative_entries` of `sigma` (zeros are neither), and
            `numerical_rank` of `U @ relu(diag(sigma)) @ V`: its singular values above numpy's
            tolerance for float32.
        """
        sigma = np.asarray(params["sigma"])
        return {
            "positive_entries": int((sigma > 0).sum()),
            "negative_entries": int((sigma < 0).sum()),
            "numerical_rank": int(np.linalg.matrix_rank(self.fold(params))),
        }
