"""Prefixes: extra keys and values for each layer, one file per parameterization.

This package imports only JAX, Flax and `dpt_jax.prompts`, with which it shares initializers.
"""

from dpt_jax.prefixes.base import STACKS, KeysValues, Prefix, Stack, T5Shape, stacks_of
from dpt_jax.prefixes.decomposed import DecomposedPrefix
from dpt_jax.prefixes.deep_shared import DeepSharedPrefix, deep_scale
from dpt_jax.prefixes.free import FreePrefix, as_free
from dpt_jax.prefixes.one_layer_shared import OneLayerSharedPrefix
from dpt_jax.prefixes.per_row import PrefixPerRow
from dpt_jax.prefixes.separate import SeparatePrefix
from dpt_jax.prefixes.simple_shared import SimpleSharedPrefix

__all__ = [
    "STACKS",
    "DecomposedPrefix",
    "DeepSharedPrefix",
    "FreePrefix",
    "KeysValues",
    "OneLayerSharedPrefix",
    "Prefix",
    "PrefixPerRow",
    "SeparatePrefix",
    "SimpleSharedPrefix",
    "Stack",
    "T5Shape",
    "as_free",
    "deep_scale",
    "stacks_of",
]
