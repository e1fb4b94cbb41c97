"""The vocabulary that a pretrained T5's folder brings, opened without SeqIO and TensorFlow."""

import json
import os
import pathlib
from typing import Any

from dpt_jax.data import model_vocabulary
from dpt_jax.data.kept_vocabulary import Bytes, Fast, KeptVocabulary, Pieces
from dpt_jax.data.text_tasks import TextMixture, TextTask
from dpt_jax.data.vocabularies import check_special_ids, published
from dpt_jax.errors import InputError

FAST = "tokenizer.json"
BYTES = "bytes"
_BYTE_CLASS = "ByT5Tokenizer"
# Where Hugging Face's folders name the class of their tokenizer, and where ours keep that.
_NAMES_CLASS = ("tokenizer_config.json", "config.json", "backbone.json")
_T5_SENTINELS = 100


def open_vocabulary(
    folder: str | os.PathLike,
    rows: int,
    tokenizer: str | os.PathLike | None = None,
    setting: str = "tokenizer=",
) -> KeptVocabulary:
    """Opens a model's vocabulary.

    Pieces are taken from `sentencepiece.model` or `spiece.model`, else from `tokenizer.json`; where
    there is none of them, bytes where the folder names ByT5's tokenizer.

    Args:
      folder: the model's folder, or the URL of a T5X checkpoint, which brings no vocabulary.
      rows: of the model's embedding table.
      tokenizer: takes the place of what the folder brings: a SentencePiece file, a
        `tokenizer.json`, a folder with one of them, or "bytes".
      setting: what names another one, for messages.

    Returns:
      The vocabulary; inputs and targets end in its end token.

    Raises:
      InputError: when there is none, with all that was looked for, or it is not a T5's, or has
        more pieces than the model embeds.
    """
    if tokenizer is not None and os.fspath(tokenizer) == BYTES:
        found: KeptVocabulary = Bytes(0, add_eos=True)
    else:
        found = _open(folder if tokenizer is None else tokenizer, rows, setting)
    check_special_ids(found, os.fspath(folder), setting)
    if found.vocab_size > rows:
        raise InputError(
            f"The tokenizer of {folder} has {found.vocab_size} pieces, the model embeds {rows}. "
            f"Name the model's own{published(rows)} with {setting}."
        )
    return found


def with_vocabulary(
    provider: Any, folder: str | None, rows: int, flag: str = "INITIAL_CHECKPOINT_PATH"
) -> Any:
    """A task or mixture of texts that has no vocabulary, with that of the model's folder.

    Args:
      provider: a task or mixture; whatever has a vocabulary is returned as it is.
      folder: the model's.
      rows: of the model's embedding table.
      flag: what names the folder.

    Raises:
      InputError: when there is no folder, or as `open_vocabulary`.
    """
    if not isinstance(provider, TextTask | TextMixture):
        return provider
    setting = "TextTask(vocabulary=)"

    def opened() -> KeptVocabulary:
        if folder is None:
            raise InputError(
                f"{provider.name!r} has the vocabulary of the model's folder, but "
                f"{flag} is None. Set it, or give the task one: {setting}."
            )
        return open_vocabulary(folder, rows, setting=setting)

    return provider.with_vocabulary(opened)


def named_by(folder: str | os.PathLike) -> str | None:
    """What tasks that read a vocabulary from a file take for the model of a folder.

    Returns:
      The path of a SentencePiece file in it, or "bytes" where it names ByT5's tokenizer; None where
      it brings neither. A `tokenizer.json` is not for them.
    """
    path = pathlib.Path(folder).expanduser()
    for name in model_vocabulary.FILES:
        if (path / name).is_file():
            return os.path.join(folder, name)
    return BYTES if _is_byt5(path) else None


def _is_byt5(folder: pathlib.Path) -> bool:
    return any(_tokenizer_class(folder / name) == _BYTE_CLASS for name in _NAMES_CLASS)


def _open(location: str | os.PathLike, rows: int, setting: str) -> KeptVocabulary:
    path = pathlib.Path(location).expanduser()
    if path.is_file():
        return Fast(path, add_eos=True) if path.suffix == ".json" else _pieces(path, rows)
    for name in model_vocabulary.FILES:
        if (path / name).is_file():
            return _pieces(path / name, rows)
    if (path / FAST).is_file():
        return Fast(path / FAST, add_eos=True)
    if _is_byt5(path):
        return Bytes(0, add_eos=True)
    raise InputError(
        f"{location} brings no tokenizer: looked for {', '.join((*model_vocabulary.FILES, FAST))}, "
        f"and for the tokenizer_class {_BYTE_CLASS} in {', '.join(_NAMES_CLASS)}. Copy the "
        f"model's own{published(rows)} into the folder, or name it with {setting}."
    )


def _pieces(file: pathlib.Path, rows: int) -> KeptVocabulary:
    """The pieces of a file, with T5's sentinels where the model has rows for them."""
    plain = Pieces(file, add_eos=True)
    count = plain.known_ids
    has_own = len(model_vocabulary.without_sentinels(model_vocabulary.pieces_of(plain.tokenizer)))
    if has_own < count or count + _T5_SENTINELS > rows:
        return plain
    return Pieces(file, add_eos=True, extra_ids=_T5_SENTINELS)


def _tokenizer_class(path: pathlib.Path) -> Any:
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(contents, dict):
        return None
    # In our folder, the `config.json` that the model came with.
    origin = contents.get("hugging_face")
    return (origin if isinstance(origin, dict) else contents).get("tokenizer_class")
