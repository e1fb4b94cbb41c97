"""Whether a task's tokens are those of the model, found out before anything else is done."""

import itertools

import seqio
from sentencepiece import SentencePieceProcessor
from t5x import models, utils
from tensorflow import errors
from tensorflow.io import gfile

from dpt_jax.data.model_vocabulary import pieces_of, without_sentinels
from dpt_jax.data.vocabularies import UNUSED_ROWS, check_special_ids, published
from dpt_jax.errors import InputError
from dpt_jax.tasks.settings import BYTES


def task_vocabulary(
    mixture_or_task_name: str, module: str | None = None, file: str | None = None
) -> seqio.Vocabulary:
    """The vocabulary for T5X's model: the task's own, once it is known to be the model's.

    T5X compares two vocabularies by files and extra ids, so that the same pieces from another
    file, or with the sentinels in it, would differ. Here the pieces have to be the same, but for
    sentinels (`<extra_id_0>`) at the end.

    Args:
      mixture_or_task_name: MIXTURE_OR_TASK_NAME.
      module: MIXTURE_OR_TASK_MODULE, imported to register the task.
      file: VOCABULARY_FILE, the SentencePiece model that the checkpoint was trained with, or
        "bytes"; None takes the task's word for it.

    Raises:
      InputError: when they differ, special ids are not T5's, or `file` cannot be read.
    """
    config = utils.DatasetConfig(mixture_or_task_name, {}, "", 0, False, 0, module=module)
    vocabulary, targets = utils.get_vocabulary(config)
    if targets != vocabulary:
        raise InputError(
            f"Task {mixture_or_task_name!r} has another vocabulary for its targets than for its "
            "inputs, but T5 has one. Change MIXTURE_OR_TASK_NAME."
        )
    check_special_ids(vocabulary, mixture_or_task_name)
    if file is None or not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return vocabulary
    own = vocabulary.sentencepiece_model_file
    if file == BYTES:
        raise InputError(
            f"Task {mixture_or_task_name!r} has the vocabulary {own}, the model that of bytes. "
            f"Set DPT_VOCAB={BYTES} for the tasks of dpt_jax, choose another task, or set "
            "--gin.VOCABULARY_FILE to the checkpoint's own."
        )
    if own != file:
        ours, theirs = _pieces(_read(file)), _pieces(vocabulary.tokenizer)
        if ours != theirs:
            both = zip(ours, theirs, strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))
            raise InputError(
                f"Task {mixture_or_task_name!r} has another vocabulary than the model: {own} has "
                f"{len(theirs)} pieces, {file} {len(ours)}, and they differ from id {same} on. "
                "Choose a task with the model's vocabulary (DPT_VOCAB for those of dpt_jax), or "
                "set --gin.VOCABULARY_FILE to the checkpoint's own."
            )
    return vocabulary


def check_embedded(model: models.BaseTransformerModel) -> None:
    """Refuses a vocabulary that has ids without an embedding, or leaves most embeddings unused.

    Raises:
      InputError: names both sizes.
    """
    pieces, rows = model.input_vocabulary.vocab_size, model.module.config.vocab_size
    if not 0 <= rows - pieces <= UNUSED_ROWS:
        name = getattr(model.input_vocabulary, "sentencepiece_model_file", model.input_vocabulary)
        raise InputError(
            f"The vocabulary {name} has {pieces} pieces, but the model embeds {rows}. Choose a "
            f"task with the model's own vocabulary{published(rows)} (DPT_VOCAB for those of "
            "dpt_jax), or another model gin file."
        )


def _read(file: str) -> SentencePieceProcessor:
    try:
        with gfile.GFile(file, "rb") as source:
            return SentencePieceProcessor(model_proto=source.read())
    except (OSError, RuntimeError, errors.OpError) as error:
        raise InputError(
            f"The vocabulary {file} cannot be read ({error}); set --gin.VOCABULARY_FILE."
        ) from error


def _pieces(processor: SentencePieceProcessor) -> list[str]:
    return without_sentinels(pieces_of(processor))
