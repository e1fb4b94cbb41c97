"""The token embeddings of a Hugging Face T5, which one folder or another keeps under four names.

Transformers has one module for `shared.weight` and the tables of both stacks, and often for
`lm_head.weight`. What saves such a model keeps one name of a shared tensor, and which one depends
on the program: `save_pretrained`, `safetensors.torch.save_model`, Accelerate. PyTorch's own files
keep all of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import SETTING, InputError
from dpt_jax.models import T5Config
from dpt_jax.tensors import Tensor

EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"
_INPUTS = (EMBEDDING, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def settle(
    folder: Path, raw: Mapping[str, Any], config: T5Config, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same weights with the tables under `EMBEDDING`, and `HEAD` where it is one of its own.

    Input tables that are equal are one table, as they are to Transformers, which takes a missing
    one from those that are there. Input tables that differ are refused: Transformers 5 embeds each
    stack's tokens with its own, and the network has one. What no table is left for is not made up.

    Args:
      folder: for messages.
      raw: its `config.json`.
      config: the network that `raw` describes.
      weights: its tensors under Hugging Face's names.

    Raises:
      InputError: the tables differ, or the head does though the network has none of its own.
    """
    settled = {name: tensor for name, tensor in weights.items() if name not in (*_INPUTS, HEAD)}
    # Where the head is a table of its own, a missing one is not that of the inputs.
    tied = raw.get("tie_word_embeddings", True) or config.logits_via_embedding
    inputs = [name for name in _INPUTS if name in weights]
    if HEAD in weights and tied and not inputs:
        inputs = [HEAD]
    if not inputs:
        return dict(weights)
    first, *others = inputs
    embedding = settled[EMBEDDING] = weights[first]
    for other in others:
        if not _equal(embedding, weights[other]):
            raise InputError(
                f"{folder}: {other} {weights[other].shape} differs from {first} "
                f"{embedding.shape}, but T5 embeds the tokens of both stacks with one table. "
                f"Remove the one that is wrong from the weights, or change {SETTING}."
            )
    if config.logits_via_embedding:
        if HEAD in weights and HEAD != first and not _equal(embedding, weights[HEAD]):
            raise InputError(
                f"{folder}: {HEAD} differs from {first}, but config.json says that they are one "
                '(T5 1.0). For T5 1.1 set "tie_word_embeddings" and "scale_decoder_outputs" to '
                "false there."
            )
    elif HEAD in weights:
        settled[HEAD] = weights[HEAD]
    elif tied:
        # Tied without T5 1.0's scale: the same numbers serve as the output projection.
        settled[HEAD] = embedding
    return settled


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tables have the same values; read in pieces, none of which stays in memory."""
    return a.shape == b.shape and all(
        np.array_equal(x, y) for x, y in zip(a.blocks(), b.blocks(), strict=True)
    )
