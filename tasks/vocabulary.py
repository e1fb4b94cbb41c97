"""The one vocabulary of all tasks, chosen when it is first needed."""

from typing import Any

import seqio
import tensorflow as tf
from sentencepiece import SentencePieceProcessor

from dpt_jax.tasks import settings
from dpt_jax.tasks.errors import TaskError


def read_extra_ids(path: str) -> int:
    """How many extra ids T5 adds to a SentencePiece model: 100, or 0 where it has them itself.

    Raises:
      TaskError: when there is no such model.
    """
    if path == settings.T5_VOCABULARY:
        return settings.EXTRA_IDS
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            model = SentencePieceProcessor(model_proto=f.read())
    except (OSError, RuntimeError, tf.errors.OpError) as e:
        raise TaskError(
            f"The vocabulary {path} cannot be read ({e}); set DPT_VOCAB, or its gin binding, to "
            "the SentencePiece file of the model."
        ) from e
    pieces = {model.id_to_piece(i) for i in range(model.get_piece_size())}
    return 0 if pieces & {"<extra_id_0>", "▁<extra_id_0>"} else settings.EXTRA_IDS


class TaskVocabulary(seqio.SentencePieceVocabulary):
    """A SentencePiece vocabulary that asks `settings.vocabulary_file` once, when first used.

    Tasks are registered on import, when gin files may not have been read yet. Equal to any other
    `seqio.SentencePieceVocabulary` of the same file and extra ids.
    """

    def __init__(self):
        super().__init__("", extra_ids=0)
        # What is missing is asked for through `__getattr__`.
        del self._sentencepiece_model_file, self._extra_ids

    def __getattr__(self, name: str) -> Any:
        if name not in ("_sentencepiece_model_file", "_extra_ids"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        path = str(settings.vocabulary_file())
        self._extra_ids = read_extra_ids(path)
        self._sentencepiece_model_file = path
        return getattr(self, name)

    def __getstate__(self) -> dict[str, Any]:
        _ = self._extra_ids
        return super().__getstate__()

    def __eq__(self, other: object) -> bool:
        # SeqIO compares the features of the tasks of a mixture, which share this object.
        return self is other or super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


VOCABULARY = TaskVocabulary()

# T5's features; EOS is appended by the tasks' last preprocessor.
FEATURES = {name: seqio.Feature(VOCABULARY, add_eos=True) for name in ("inputs", "targets")}
