"""Whether a task's vocabulary is the one that the model was trained with."""

import logging
import os
from typing import Any

from dpt_jax.data import model_vocabulary
from dpt_jax.data.model_vocabulary import SENTINEL, ModelVocabulary, without_sentinels
from dpt_jax.devices import agreement
from dpt_jax.errors import InputError
from dpt_jax.models import T5Config
from dpt_jax.models.decoding import EOS_ID, PAD_ID

# T5 pads its embedding table to a multiple of 128 rows, after 100 sentinels (ByT5 after 125, umT5
# after 300) that a task's vocabulary may leave out.
UNUSED_ROWS = 127 + 300

# The vocabularies of published models, by the rows of their embedding tables.
_PUBLISHED = {
    32128: ("T5", "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"),
    250112: ("mT5", "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"),
    256384: ("umT5", "gs://t5-data/vocabs/umt5.256000/sentencepiece.model"),
    384: ("ByT5", "bytes"),
}
# What stands for padding, the end and the unknown where there are no pieces (ByT5).
_SPECIAL_BYTES = ["<pad>", "</s>", "<unk>"]


def check_special_ids(vocabulary: Any, task: str) -> None:
    """Refuses a vocabulary whose special ids are not T5's: 0 for padding and 1 for the end.

    SentencePiece's trainer has other ones unless it is told: rows would end in what the model never
    stops at, and unknown characters would be taken for padding.

    Args:
      vocabulary: the SeqIO vocabulary of the task, or a `KeptVocabulary`.
      task: the task's name, for the message.

    Raises:
      InputError: when they differ.
    """
    found = []
    if vocabulary.eos_id not in (None, EOS_ID):
        found.append(f"ends rows in id {vocabulary.eos_id}")
    if vocabulary.unk_id == PAD_ID:
        found.append(f"has id {PAD_ID} for what it does not know")
    elif _is_text(vocabulary, PAD_ID):
        found.append(f"has a piece of text as id {PAD_ID}")
    if found:
        name = getattr(vocabulary, "sentencepiece_model_file", vocabulary.__class__.__name__)
        raise InputError(
            f"The vocabulary {os.fspath(name)} of {task!r} {' and '.join(found)}, but a T5 pads "
            f"with {PAD_ID} and ends in {EOS_ID}. Set --gin.VOCABULARY (or "
            "DPT_VOCAB) to the model's own vocabulary for "
            "tasks that read it; SentencePiece trains one with --pad_id=0 --eos_id=1 --unk_id=2."
        )


def check_vocabulary(
    vocabulary: Any, config: T5Config, task: str, checkpoint: str | None = None
) -> None:
    """Refuses a vocabulary whose token ids mean something else to the model, or nothing.

    Where the checkpoint's folder tells the model's pieces, they have to be the same, but for
    sentinels (`<extra_id_0>`). Elsewhere the sizes have to agree, up to the rows by which T5 pads
    its embedding table: 32,100 pieces suit 32,128 rows, 4,000 do not. Tokens that were added to the
    model and that the vocabulary does not know are logged as a warning.

    Args:
      vocabulary: the SeqIO vocabulary of the task.
      config: the model.
      task: the task's name, for the message.
      checkpoint: INITIAL_CHECKPOINT_PATH.

    Raises:
      InputError: when they differ, or special ids are not T5's.
    """
    check_special_ids(vocabulary, task)
    size, rows = vocabulary.vocab_size, config.vocab_size
    if size > rows:
        raise InputError(
            f"Task {task!r} has a vocabulary of {size} pieces, the model embeds {rows}. Set "
            f"--gin.VOCABULARY (or DPT_VOCAB) to the model's own vocabulary{published(rows)} for "
            "tasks that read it, or choose another model gin file."
        )
    model = model_vocabulary.read(checkpoint)
    passes_through = _is_pass_through(vocabulary)
    if model.file is not None and not passes_through:
        difference = _difference(vocabulary, model)
        if difference:
            raise InputError(
                f"Task {task!r} has another vocabulary than the model of INITIAL_CHECKPOINT_PATH: "
                f"{difference}. Set DPT_VOCAB{_own(model, rows)} for tasks that read it, or choose "
                "another checkpoint."
            )
    elif size + UNUSED_ROWS < rows:
        raise InputError(
            f"Task {task!r} has a vocabulary of {size} pieces, too few for a model that embeds "
            f"{rows}: the model was trained with another one. Set --gin.VOCABULARY (or "
            f"DPT_VOCAB) to the model's own{published(rows)}, or put that beside the weights as "
            f"{model_vocabulary.FILES[1]}, so that pieces can be compared."
        )
    if not passes_through:
        _warn_of_added(vocabulary, model, task)


def published(rows: int) -> str:
    """` (ByT5's: bytes)`, where a published model has so many embeddings; nothing elsewhere."""
    family, file = _PUBLISHED.get(rows, ("", ""))
    return f" ({family}'s: {file})" if family else ""


def _is_pass_through(vocabulary: Any) -> bool:
    # Its tasks bring token ids of their own, without saying what they stand for.
    return type(vocabulary).__name__ == "PassThroughVocabulary"


def _is_text(vocabulary: Any, index: int) -> bool:
    processor = getattr(vocabulary, "tokenizer", None)
    return processor is not None and not (processor.IsControl(index) or processor.IsUnused(index))


def _own(model: ModelVocabulary, rows: int) -> str:
    if model.file is not None and model.file.name in model_vocabulary.FILES:
        return f"={model.file}"
    return f" to the model's own SentencePiece file{published(rows)}"


def _pieces(vocabulary: Any) -> list[str]:
    processor = getattr(vocabulary, "tokenizer", None)
    return _SPECIAL_BYTES if processor is None else model_vocabulary.pieces_of(processor)


def _difference(vocabulary: Any, model: ModelVocabulary) -> str | None:
    if not hasattr(vocabulary, "sentencepiece_model_file"):
        return f"a {vocabulary.__class__.__name__}, and the model's is {model.file}"
    ours, theirs = without_sentinels(_pieces(vocabulary)), model.pieces
    # What was added to the model, the task's file may have among its pieces.
    known = {index: token for token, index in model.added.items()} | dict(enumerate(theirs))
    name = os.fspath(vocabulary.sentencepiece_model_file)
    differing = [
        index
        for index, piece in enumerate(ours)
        if known.get(index) != piece and not SENTINEL.fullmatch(piece)
    ]
    if len(ours) < len(theirs) or (differing and differing[-1] not in known):
        return f"{name} has {len(ours)} pieces, {model.file} {len(theirs)}"
    if not differing:
        return None
    first = differing[0]
    return f"piece {first} is {ours[first]!r} in {name} and {known[first]!r} in {model.file}"


def _warn_of_added(vocabulary: Any, model: ModelVocabulary, task: str) -> None:
    ours = _pieces(vocabulary)
    missing = {
        token: index
        for token, index in model.added.items()
        if index >= len(ours) or ours[index] != token
    }
    if not missing or not agreement.is_first():
        return
    shown = ", ".join(f"{token!r} ({index})" for token, index in list(missing.items())[:5])
    more = ", …" if len(missing) > 5 else ""
    remedy = ""
    if hasattr(vocabulary, "tokenizer"):
        remedy = (
            " To use them, set DPT_VOCAB to a SentencePiece model that has them as user-defined "
            "symbols under these ids."
        )
    logging.warning(
        f"The tokenizer of INITIAL_CHECKPOINT_PATH knows {len(missing)} added token(s) that the "
        f"vocabulary of {task!r} does not: {shown}{more}. In its text they are split into pieces, "
        f"and their embeddings are not used.{remedy}"
    )
