"""What the folder of a pretrained T5 says of the model's vocabulary."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from dpt_jax.errors import InputError

# A SentencePiece model beside the weights: in our folders, and in those of Hugging Face.
FILES = ("sentencepiece.model", "spiece.model")
# Hugging Face's tokenizers; Transformers 5 writes the pieces nowhere but into the first.
_FAST, _SETTINGS, _ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"

# SeqIO adds sentinels to the file's pieces; some files hold them already.
SENTINEL = re.compile("▁?<extra_id_[0-9]+>")


@dataclasses.dataclass(frozen=True)
class ModelVocabulary:
    """The tokens that a model was trained with, as its folder has them.

    Attributes:
      file: where the pieces are; None where the folder has none.
      pieces: SentencePiece's, by their ids, without sentinels at the end.
      added: the ids of the tokens that Hugging Face's tokenizer has besides and finds in a text
        before the rest is split into pieces; those for padding and the end may be among them.
    """

    file: pathlib.Path | None
    pieces: list[str]
    added: Mapping[str, int]


def read(checkpoint: str | None) -> ModelVocabulary:
    """Reads the vocabulary in a checkpoint's folder, which may be missing altogether.

    Args:
      checkpoint: INITIAL_CHECKPOINT_PATH.

    Raises:
      InputError: a file cannot be read.
    """
    if checkpoint is None or "://" in checkpoint:
        return ModelVocabulary(None, [], {})
    folder = pathlib.Path(checkpoint).expanduser()
    fast = _read_json(folder / _FAST)
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    try:
        added = _added_tokens(fast, _read_json(folder / _SETTINGS), _read_json(folder / _ADDED))
        if file is not None:
            return ModelVocabulary(file, _file_pieces(file), added)
        model = fast.get("model", {})
        if model.get("type") != "Unigram":
            return ModelVocabulary(None, [], added)
        pieces = without_sentinels([str(piece) for piece, _ in model["vocab"]])
        return ModelVocabulary(folder / _FAST, pieces, added)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"The tokenizer of INITIAL_CHECKPOINT_PATH = {folder} ({_FAST}, {_SETTINGS}, {_ADDED}) "
            f"is not one of Hugging Face's: {e!r}. Copy these files again, or remove them."
        ) from e


def pieces_of(processor: Any) -> list[str]:
    """All pieces of a `SentencePieceProcessor`, by their ids."""
    return [processor.IdToPiece(i) for i in range(processor.GetPieceSize())]


def without_sentinels(pieces: list[str]) -> list[str]:
    """Pieces without the sentinels at their end."""
    count = len(pieces)
    while count and SENTINEL.fullmatch(pieces[count - 1]):
        count -= 1
    return pieces[:count]


def _file_pieces(file: pathlib.Path) -> list[str]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(file))
    except (OSError, RuntimeError) as e:
        raise InputError(
            f"{file}, beside the weights of INITIAL_CHECKPOINT_PATH, is no SentencePiece model: {e}"
        ) from e
    return without_sentinels(pieces_of(processor))


def _added_tokens(
    fast: Mapping[str, Any], settings: Mapping[str, Any], added: Mapping[str, Any]
) -> dict[str, int]:
    stated = {token: int(index) for token, index in added.items()}
    for index, token in settings.get("added_tokens_decoder", {}).items():
        stated[token["content"]] = int(index)
    for token in fast.get("added_tokens", ()):
        stated[token["content"]] = int(token["id"])
    return {token: index for token, index in stated.items() if not SENTINEL.fullmatch(token)}


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path}, beside the weights of INITIAL_CHECKPOINT_PATH, cannot be read: {e}. Copy it "
            "again, or remove it."
        ) from e
    if not isinstance(contents, dict):
        raise InputError(f"{path} holds no JSON object. Copy it again, or remove it.")
    return contents
