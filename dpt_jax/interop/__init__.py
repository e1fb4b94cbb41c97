"""Weights and prompts in and out: our folders, Hugging Face, T5X and numpy."""

from dpt_jax.interop.backbones import (
    Backbone,
    load_backbone,
    open_backbone,
)
from dpt_jax.interop.own_folder import save_backbone, write_backbone
from dpt_jax.interop.prefix_file import prefix_from_file
from dpt_jax.interop.prompts import (
    FactorsFile,
    PromptFile,
    load_factors,
    load_prompt,
    save_factors,
    save_prompt,
)

__all__ = [
    "Backbone",
    "FactorsFile",
    "PromptFile",
    "load_backbone",
    "load_factors",
    "load_prompt",
    "open_backbone",
    "prefix_from_file",
    "save_backbone",
    "save_factors",
    "save_prompt",
    "write_backbone",
]
