"""Decomposed prompt tuning for a frozen T5 in JAX.

    method = dpt_jax.DecomposedPrompt(length=100, bottleneck=10)
    t5 = dpt_jax.PromptedT5.from_pretrained("t5-large/", method)
    t5.fit(pairs, epochs=100, eval_pairs=held_out)
    t5.generate(["is it red ?"])
    t5.save_prompt("rte")

Importing this package is cheap: the names in `__all__` are imported when they are first used, and
with them JAX and Flax; TensorFlow comes with SeqIO tasks alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dpt_jax.version import __version__

# Where each public name comes from.
_MODULES = {
    "dpt_jax.prompted_t5": ("PromptedT5",),
    "dpt_jax.analysis.history": ("History",),
    "dpt_jax.errors": ("InputError",),
    "dpt_jax.data.text_tasks": ("TextMixture", "TextTask"),
    "dpt_jax.prompts": (
        "ClassLabels",
        "DecomposedPrompt",
        "ResidualPrompt",
        "SampledVocabulary",
        "SoftPrompt",
        "SpectralPrompt",
        "VanillaPrompt",
    ),
    "dpt_jax.prefixes": (
        "DecomposedPrefix",
        "DeepSharedPrefix",
        "FreePrefix",
        "OneLayerSharedPrefix",
        "Prefix",
        "SeparatePrefix",
        "SimpleSharedPrefix",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ClassLabels",
    "DecomposedPrefix",
    "DecomposedPrompt",
    "DeepSharedPrefix",
    "FreePrefix",
    "History",
    "InputError",
    "OneLayerSharedPrefix",
    "Prefix",
    "PromptedT5",
    "ResidualPrompt",
    "SampledVocabulary",
    "SeparatePrefix",
    "SimpleSharedPrefix",
    "SoftPrompt",
    "SpectralPrompt",
    "TextMixture",
    "TextTask",
    "VanillaPrompt",
    "__version__",
]

if TYPE_CHECKING:
    from dpt_jax.analysis.history import History
    from dpt_jax.data.text_tasks import TextMixture, TextTask
    from dpt_jax.errors import InputError
    from dpt_jax.prefixes import (
        DecomposedPrefix,
        DeepSharedPrefix,
        FreePrefix,
        OneLayerSharedPrefix,
        Prefix,
        SeparatePrefix,
        SimpleSharedPrefix,
    )
    from dpt_jax.prompted_t5 import PromptedT5
    from dpt_jax.prompts import (
        ClassLabels,
        DecomposedPrompt,
        ResidualPrompt,
        SampledVocabulary,
        SoftPrompt,
        SpectralPrompt,
        VanillaPrompt,
    )


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
