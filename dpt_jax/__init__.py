"""Decomposed prompt tuning for a frozen T5 in JAX.

Importing this package is cheap: JAX, Flax and TensorFlow are loaded by the
subpackages that need them (`dpt_jax.prompts`, `dpt_jax.models`,
`dpt_jax.training`, ...).
"""

__version__ = "0.1.0"
