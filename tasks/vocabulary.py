"""The one vocabulary of all tasks, chosen when it is first needed."""

import copy
import functools
import json
import pathlib
from typing import Any

import seqio
import tensorflow as tf
from sentencepiece import SentencePieceProcessor

from dpt_jax.tasks import settings
from dpt_jax.tasks.errors import TaskError


def read_extra_ids(path: str) -> int:
    """How many extra ids T5 adds to a SentencePiece model.

    100, or 0 where it has them itself, or lies in the folder of a model that embeds fewer.

    Raises:
      TaskError: when there is no such model.
    """
    if path == settings.T5_VOCABULARY:
        return settings.EXTRA_IDS
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            model = SentencePieceProcessor(model_proto=f.read())
    except (OSError, RuntimeError, tf.errors.OpError) as e:
        # TensorFlow says the path once more.
        reason = str(getattr(e, "message", e)).removeprefix(f"{path}; ")
        raise TaskError(
            f"The vocabulary {path} cannot be read ({reason}). Set DPT_VOCAB, or the gin macro "
            "VOCABULARY, to the SentencePiece file of the model, or to 'bytes' for ByT5."
        ) from e
    count = model.get_piece_size()
    has_own = {"<extra_id_0>", "▁<extra_id_0>"} & {model.id_to_piece(i) for i in range(count)}
    rows = _rows_beside(path)
    has_no_room = rows is not None and rows < count + settings.EXTRA_IDS
    return 0 if has_own or has_no_room else settings.EXTRA_IDS


def _rows_beside(path: str) -> int | None:
    """How many rows the model embeds whose folder a file is in; None where that is not known."""
    for name in ("backbone.json", "config.json"):  # Ours, and Hugging Face's.
        try:
            said = json.loads((pathlib.Path(path).parent / name).read_text())
            return int(said.get("config", said)["vocab_size"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    return None


def read_vocabulary(path: str) -> seqio.Vocabulary:
    """The vocabulary of a SentencePiece model, or of bytes where `path` is "bytes".

    Raises:
      TaskError: when there is no such model.
    """
    if path == settings.BYTES:
        return seqio.ByteVocabulary(extra_ids=settings.BYTE_EXTRA_IDS)
    return seqio.SentencePieceVocabulary(path, extra_ids=read_extra_ids(path))


class TaskVocabulary:
    """Stands for the vocabulary that `settings.vocabulary_file` names, which is asked once.

    Tasks are registered on import, when gin files may not have been read yet. From its first use on
    it behaves as that vocabulary, equal to others of the same kind, file and extra ids.
    """

    @functools.cached_property
    def _chosen(self) -> seqio.Vocabulary:
        return read_vocabulary(str(settings.vocabulary_file()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chosen, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # For `isinstance`, which SeqIO's vocabularies ask before they compare.
        return type(self._chosen)

    def __getstate__(self) -> dict[str, Any]:
        # What SeqIO's vocabularies compare.
        return self._chosen.__getstate__()

    def __reduce__(self) -> tuple[Any, ...]:
        return copy.copy, (self._chosen,)

    def __eq__(self, other: object) -> bool:
        # SeqIO compares the features of the tasks of a mixture, which share this object.
        return self is other or self._chosen == other

    __hash__ = None  # type: ignore[assignment]


VOCABULARY = TaskVocabulary()

# T5's features; EOS is appended by the tasks' last preprocessor.
FEATURES = {name: seqio.Feature(VOCABULARY, add_eos=True) for name in ("inputs", "targets")}
