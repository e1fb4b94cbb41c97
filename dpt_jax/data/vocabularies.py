"""Whether a task's vocabulary is the one that the model was trained with."""

import os
import pathlib
import re
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.models import T5Config

# Beside the weights: in our folders, and in those of Hugging Face.
FILES = ("sentencepiece.model", "spiece.model")

# T5 pads its embedding table to a multiple of 128 rows, after 100 sentinels (ByT5 after 125) that a
# task's vocabulary may leave out.
_UNUSED_ROWS = 127 + 128

# SeqIO adds sentinels to the file's pieces; some files hold them already.
_SENTINEL = re.compile("▁?<extra_id_[0-9]+>")


def find_vocabulary(checkpoint: str | None) -> pathlib.Path | None:
    """The SentencePiece model in a checkpoint's folder; None where there is none."""
    if checkpoint is None or "://" in checkpoint:
        return None
    folder = pathlib.Path(checkpoint).expanduser()
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def check_vocabulary(
    vocabulary: Any, config: T5Config, task: str, checkpoint: str | None = None
) -> None:
    """Refuses a vocabulary whose token ids mean something else to the model, or nothing.

    Where the checkpoint's folder holds a SentencePiece model, the pieces have to be the same, but
    for sentinels (`<extra_id_0>`) at the end. Elsewhere the sizes have to agree, up to the rows by
    which T5 pads its embedding table: 32,100 pieces suit 32,128 rows, 4,000 do not.

    Args:
      vocabulary: the SeqIO vocabulary of the task.
      config: the model.
      task: the task's name, for the message.
      checkpoint: INITIAL_CHECKPOINT_PATH.

    Raises:
      InputError: when they differ.
    """
    size, rows = vocabulary.vocab_size, config.vocab_size
    if size > rows:
        raise InputError(
            f"Task {task!r} has a vocabulary of {size} pieces, the model embeds {rows}. Choose the "
            "model's own vocabulary (DPT_VOCAB), or another model gin file."
        )
    file = find_vocabulary(checkpoint)
    if file is not None and not _is_pass_through(vocabulary):
        difference = _difference(vocabulary, file)
        if difference:
            raise InputError(
                f"Task {task!r} has another vocabulary than the model of INITIAL_CHECKPOINT_PATH: "
                f"{difference}. Set DPT_VOCAB={file} for tasks that read it, or choose another "
                "checkpoint."
            )
    elif size + _UNUSED_ROWS < rows:
        raise InputError(
            f"Task {task!r} has a vocabulary of {size} pieces, too few for a model that embeds "
            f"{rows}: the model was trained with another one. Set DPT_VOCAB to the model's own, or "
            f"put that beside the model's weights as {FILES[1]}, so that pieces can be compared."
        )


def _is_pass_through(vocabulary: Any) -> bool:
    # Its tasks bring token ids of their own, without saying what they stand for.
    return type(vocabulary).__name__ == "PassThroughVocabulary"


def _difference(vocabulary: Any, file: pathlib.Path) -> str | None:
    if not hasattr(vocabulary, "sentencepiece_model_file"):
        return f"a {type(vocabulary).__name__}, and the model's is {file}"
    theirs, ours = _file_pieces(file), _pieces(vocabulary.tokenizer)
    if theirs == ours:
        return None
    name = os.fspath(vocabulary.sentencepiece_model_file)
    if len(theirs) != len(ours):
        return f"{name} has {len(ours)} pieces, {file} {len(theirs)}"
    first = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    return f"piece {first} is {ours[first]!r} in {name} and {theirs[first]!r} in {file}"


def _file_pieces(file: pathlib.Path) -> list[str]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(file))
    except (OSError, RuntimeError) as e:
        raise InputError(
            f"{file}, beside the weights of INITIAL_CHECKPOINT_PATH, is no SentencePiece model: {e}"
        ) from e
    return _pieces(processor)


def _pieces(processor: Any) -> list[str]:
    pieces = [processor.IdToPiece(i) for i in range(processor.GetPieceSize())]
    while pieces and _SENTINEL.fullmatch(pieces[-1]):
        pieces.pop()
    return pieces
