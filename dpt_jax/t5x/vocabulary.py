"""Checks that a task's tokens are the model's, before anything is restored."""

from typing import Any

from t5x import models, utils

from dpt_jax.errors import InputError


def check_vocabularies(config: utils.DatasetConfig, model: models.BaseTransformerModel) -> None:
    """Refuses a task whose vocabulary is not the model's: T5X's `verify_matching_vocabs_fn`.

    Raises:
      InputError: names both vocabularies, and what to change.
    """
    ours = {"inputs": model.input_vocabulary, "targets": model.output_vocabulary}
    theirs = dict(zip(ours, utils.get_vocabulary(config), strict=True))
    for feature, vocabulary in theirs.items():
        if vocabulary != ours[feature]:
            raise InputError(
                f"Task {config.mixture_or_task_name!r} has the vocabulary "
                f"{_describe(vocabulary)} for its {feature}, the model {_describe(ours[feature])}. "
                "Set --gin.VOCABULARY_FILE to the SentencePiece model that both the task and the "
                "checkpoint were made with, or choose another task."
            )


def check_embedded(model: models.BaseTransformerModel) -> None:
    """Refuses a vocabulary with ids that the model has no embedding for.

    Raises:
      InputError: names both sizes.
    """
    pieces, rows = model.input_vocabulary.vocab_size, model.module.config.vocab_size
    if pieces > rows:
        raise InputError(
            f"The vocabulary {_describe(model.input_vocabulary)} has {pieces} pieces, but the "
            f"model embeds {rows}. Set --gin.VOCABULARY_FILE to the model's own, or take another "
            "model gin file."
        )


def _describe(vocabulary: Any) -> str:
    return getattr(vocabulary, "sentencepiece_model_file", None) or str(vocabulary)
