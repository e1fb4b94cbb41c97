"""Whether a task's vocabulary is the one that the model was trained with."""

import logging
import os
from typing import Any

from dpt_jax.data import model_vocabulary
from dpt_jax.data.kept_vocabulary import Fast
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
# What sets the vocabulary of a task, for messages.
_OF_TASKS = "--gin.VOCABULARY (or DPT_VOCAB, for tasks that read it)"


def check_special_ids(vocabulary: Any, task: str, setting: str = _OF_TASKS) -> None:
    """Refuses a vocabulary whose special ids are not T5's: 0 for padding and 1 for the end.

    SentencePiece's trainer has other ones unless it is told: rows would end in what the model never
    stops at, and unknown characters would be taken for padding.

    Args:
      vocabulary: the SeqIO vocabulary of the task, or a `KeptVocabulary`.
      task: the name of the task, or of what else has it, for the message.
      setting: what sets another one, for the message.

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
        raise InputError(
            f"The vocabulary {_name(vocabulary)} of {task!r} {' and '.join(found)}, but a T5 pads "
            f"with {PAD_ID} and ends in {EOS_ID}. Set {setting} to the model's own vocabulary; "
            "SentencePiece trains one with --pad_id=0 --eos_id=1 --unk_id=2."
        )


def check_vocabulary(
    vocabulary: Any,
    config: T5Config,
    task: str,
    checkpoint: str | None = None,
    setting: str = _OF_TASKS,
) -> None:
    """Refuses a vocabulary whose token ids mean something else to the model, or nothing.

    Where the checkpoint's folder tells the model's pieces, they have to be the same, but for
    sentinels (`<extra_id_0>`). Elsewhere the sizes have to agree, up to the rows by which T5 pads
    its embedding table: 32,100 pieces suit 32,128 rows, 4,000 do not. Tokens that were added to the
    model and that the vocabulary does not know are logged as a warning.

    Args:
      vocabulary: the SeqIO vocabulary of the task, or a `KeptVocabulary`.
      config: the model.
      task: the name of the task, or of what else has it, for the messages.
      checkpoint: INITIAL_CHECKPOINT_PATH.
      setting: what sets another one, for the messages.

    Raises:
      InputError: when they differ, or special ids are not T5's.
    """
    check_special_ids(vocabulary, task, setting)
    size, rows = vocabulary.vocab_size, config.vocab_size
    if size > rows:
        raise InputError(
            f"The vocabulary of {task!r} has {size} pieces, the model embeds {rows}. Set {setting} "
            f"to the model's own{published(rows)}, or choose another model gin file."
        )
    model = model_vocabulary.read(checkpoint)
    passes_through = _is_pass_through(vocabulary)
    if model.file is not None and not passes_through:
        difference = _difference(vocabulary, model)
        if difference:
            raise InputError(
                f"The vocabulary of {task!r} is not the model's: {difference}. Set {setting} to "
                f"{_own(model, rows)}, or choose another model (INITIAL_CHECKPOINT_PATH)."
            )
    elif size + UNUSED_ROWS < rows:
        raise InputError(
            f"The vocabulary of {task!r} has {size} pieces, too few for a model that embeds "
            f"{rows}: the model was trained with another one. Set {setting} to the model's own"
            f"{published(rows)}, or put that beside the weights as {model_vocabulary.FILES[1]}, so "
            "that pieces can be compared."
        )
    if not passes_through:
        _warn_of_added(vocabulary, model, task, checkpoint, setting)


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
        return os.fspath(model.file)
    return f"the model's own SentencePiece file{published(rows)}"


def _pieces(vocabulary: Any) -> list[str]:
    if isinstance(vocabulary, Fast):
        return vocabulary.pieces()
    processor = getattr(vocabulary, "tokenizer", None)
    return _SPECIAL_BYTES if processor is None else model_vocabulary.pieces_of(processor)


def _file(vocabulary: Any) -> Any:
    """Where a vocabulary's pieces are; None where it has none."""
    if isinstance(vocabulary, Fast):
        return vocabulary.file
    return getattr(vocabulary, "sentencepiece_model_file", None)


def _name(vocabulary: Any) -> str:
    return os.fspath(_file(vocabulary) or vocabulary.__class__.__name__)


def _difference(vocabulary: Any, model: ModelVocabulary) -> str | None:
    name = _name(vocabulary)
    if _file(vocabulary) is None:
        return f"it is a {name}, and the model's is {model.file}"
    ours, theirs = without_sentinels(_pieces(vocabulary)), model.pieces
    # What was added to the model, the task's file may have among its pieces.
    known = {index: token for token, index in model.added.items()} | dict(enumerate(theirs))
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


def _warn_of_added(
    vocabulary: Any, model: ModelVocabulary, task: str, checkpoint: str | None, setting: str
) -> None:
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
    if _file(vocabulary) is not None:
        remedy = (
            f" To use them, set {setting} to a SentencePiece model that has them as user-defined "
            "symbols under these ids."
        )
    logging.warning(
        f"The tokenizer of {checkpoint} knows {len(missing)} added token(s) that "
        f"{_name(vocabulary)}, the vocabulary of {task!r}, does not: {shown}{more}. In its text "
        f"they are split into pieces, and their embeddings are not used.{remedy}"
    )
