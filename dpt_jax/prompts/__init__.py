"""Soft prompts: one file per parameterization, and where they may start.

This package imports only JAX and Flax.
"""

from dpt_jax.prompts.arrays import prompt_array
from dpt_jax.prompts.base import SoftPrompt, declare_parameter, require_size
from dpt_jax.prompts.decomposed import DecomposedPrompt
from dpt_jax.prompts.initializers import (
    ClassLabels,
    Initializer,
    SampledVocabulary,
    VocabularyInitializer,
    bind_vocabulary,
    from_factors,
    from_prompt,
    gaussian,
    shape_only,
    truncated_svd,
    uniform,
)
from dpt_jax.prompts.measured import (
    NO_MODEL,
    ResidualNorm,
    at_residual_norm,
    bind_residual_norm,
    needs_residual_norm,
)
from dpt_jax.prompts.per_row import PromptPerRow
from dpt_jax.prompts.residual import ResidualPrompt
from dpt_jax.prompts.spectral import SpectralPrompt
from dpt_jax.prompts.vanilla import VanillaPrompt

__all__ = [
    "NO_MODEL",
    "ClassLabels",
    "DecomposedPrompt",
    "Initializer",
    "PromptPerRow",
    "ResidualNorm",
    "ResidualPrompt",
    "SampledVocabulary",
    "SoftPrompt",
    "SpectralPrompt",
    "VanillaPrompt",
    "VocabularyInitializer",
    "at_residual_norm",
    "bind_residual_norm",
    "bind_vocabulary",
    "declare_parameter",
    "from_factors",
    "from_prompt",
    "gaussian",
    "needs_residual_norm",
    "prompt_array",
    "require_size",
    "shape_only",
    "truncated_svd",
    "uniform",
]
