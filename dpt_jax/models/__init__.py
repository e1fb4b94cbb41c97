"""The frozen T5: its configuration, network, prompt injection and decoding."""

from dpt_jax.models.config import T5Config
from dpt_jax.models.injection import PromptedEmbedder, extend_for_prompt
from dpt_jax.models.network import Transformer

__all__ = [
    "PromptedEmbedder",
    "T5Config",
    "Transformer",
    "extend_for_prompt",
]
