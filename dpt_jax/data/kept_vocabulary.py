"""A run's vocabulary, kept in its folder, so that text is tokenized without SeqIO and TensorFlow.

`vocabulary.json` says what it is: `{"kind": "bytes", "extra_ids": 125, "add_eos": true}`; or kind
`sentencepiece`, whose pieces are in `sentencepiece.model`, sentinels included; or `tokenizers`,
which is Hugging Face's `tokenizer.json`.
"""

import abc
import json
import os
from collections.abc import Iterable
from typing import Any

from dpt_jax import run_files
from dpt_jax.errors import InputError
from dpt_jax.paths import as_path
from dpt_jax.quiet_import import quiet_import

# What a subclass must have left as it was, to be kept as the class that it comes from.
_BEHAVIOUR = ("encode", "_encode", "decode", "_decode", "eos_id", "unk_id", "vocab_size")
_OF_RUN = "the run's"
_OF_PIECES = ("tokenizer", "sp_model", "_base_vocab_size")


def files_of(feature: Any) -> dict[str, Any]:
    """What a run's folder has to keep of the vocabulary of its inputs, by the file's name.

    Args:
      feature: the feature of a SeqIO task or a text task.

    Returns:
      The contents of `vocabulary.json` and the bytes of `sentencepiece.model`, which comes first;
      nothing for other vocabularies than SeqIO's of pieces and of bytes.
    """
    vocabulary = feature.vocabulary
    if isinstance(vocabulary, KeptVocabulary):
        return vocabulary.files()
    seqio = quiet_import("seqio")
    sizes = vocabulary.extra_ids, feature.add_eos
    if _behaves_as(vocabulary, seqio.ByteVocabulary, _BEHAVIOUR):
        return {run_files.VOCABULARY: _description("bytes", *sizes)}
    if _behaves_as(vocabulary, seqio.SentencePieceVocabulary, _BEHAVIOUR + _OF_PIECES):
        return {
            run_files.PIECES: vocabulary.sp_model,
            run_files.VOCABULARY: _description("sentencepiece", *sizes),
        }
    return {}


def _behaves_as(vocabulary: Any, base: type, names: Iterable[str]) -> bool:
    # Not `type`, which of a vocabulary that stands for another tells the one that stands.
    own = vocabulary.__class__
    return isinstance(vocabulary, base) and all(
        getattr(own, name) is getattr(base, name) for name in names
    )


class KeptVocabulary(abc.ABC):
    """Encodes and decodes as the SeqIO vocabulary does that was kept.

    Attributes:
      eos_id: the end token.
      unk_id: what ids from `known_ids` on are taken for.
      known_ids: how many ids stand for something.
      vocab_size: `known_ids`, and sentinels that stand for nothing.
      add_eos: whether the task ends its inputs by the end token.
    """

    eos_id: int
    unk_id: int
    known_ids: int
    vocab_size: int
    add_eos: bool

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The text's ids, without the end token."""

    @abc.abstractmethod
    def files(self) -> dict[str, Any]:
        """What a run's folder has to keep of it, as `files_of` gives it."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, up to the first end token."""
        known = [i if i < self.known_ids else self.unk_id for i in ids]
        if self.eos_id in known:
            known = known[: known.index(self.eos_id) + 1]
        return self._decode(known)

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str: ...


class Bytes(KeptVocabulary):
    """ByT5's: bytes from id 3 on."""

    eos_id, unk_id, known_ids = 1, 2, 3 + 256

    def __init__(self, extra_ids: int, add_eos: bool):
        self.vocab_size, self.add_eos = self.known_ids + extra_ids, add_eos

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode()]

    def files(self) -> dict[str, Any]:
        extra_ids = self.vocab_size - self.known_ids
        return {run_files.VOCABULARY: _description("bytes", extra_ids, self.add_eos)}

    def _decode(self, ids: list[int]) -> str:
        return bytes(i - 3 for i in ids if 3 <= i < self.known_ids).decode(errors="ignore")


class Pieces(KeptVocabulary):
    """A SentencePiece model's.

    Attributes:
      sentencepiece_model_file: where it is.
      tokenizer: the `SentencePieceProcessor`.
    """

    def __init__(self, file: Any, add_eos: bool, extra_ids: int = 0, of: str = "the model's"):
        """Reads the model.

        Args:
          file: its path.
          add_eos: whether inputs end in the end token.
          extra_ids: sentinels (`<extra_id_0>`) to be put behind the file's pieces, the last first,
            as T5 and SeqIO number them.
          of: whose vocabulary it is, for the message.

        Raises:
          InputError: when the file is no such model.
        """
        from sentencepiece import SentencePieceProcessor

        self.sentencepiece_model_file, self.add_eos = file, add_eos
        self._extra_ids, self._model = extra_ids, b""
        self.tokenizer = SentencePieceProcessor()
        try:
            self._model = with_sentinels(file.read_bytes(), extra_ids)
            self.tokenizer.LoadFromSerializedProto(self._model)
        except (OSError, RuntimeError, ValueError) as e:
            remedy = "Copy it again."
            if of == _OF_RUN:
                remedy = (
                    f"Delete {file.with_name(run_files.VOCABULARY)} to take that of the task "
                    "instead."
                )
            raise InputError(f"{file}, {of} vocabulary, cannot be read: {e}. {remedy}") from e
        self.eos_id, self.unk_id = self.tokenizer.eos_id(), self.tokenizer.unk_id()
        self.known_ids = self.vocab_size = self.tokenizer.GetPieceSize()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.EncodeAsIds(text)

    def files(self) -> dict[str, Any]:
        return {
            run_files.PIECES: self._model,
            run_files.VOCABULARY: _description("sentencepiece", self._extra_ids, self.add_eos),
        }

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.DecodeIds(ids)


class Fast(KeptVocabulary):
    """Hugging Face's `tokenizer.json`, through the package `tokenizers`.

    Attributes:
      file: where it is.
    """

    def __init__(self, file: Any, add_eos: bool):
        """Reads it; raises InputError where it cannot be read, or `tokenizers` is missing."""
        try:
            from tokenizers import Tokenizer
        except ImportError as e:
            raise InputError(
                f"{file} is read by the package tokenizers, which is not installed: pip install "
                "tokenizers, or put the model's spiece.model beside it."
            ) from e
        self.file, self.add_eos = file, add_eos
        try:
            self._tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        # The package raises nothing more special.
        except Exception as e:
            raise InputError(
                f"{file} is no tokenizer of Hugging Face's: {e}. Copy it again."
            ) from e
        # Transformers does not take these from the file either.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._pad_id, self.eos_id, self.unk_id = map(self._id_of, ("<pad>", "</s>", "<unk>"))
        self.known_ids = self.vocab_size = self._tokenizer.get_vocab_size()

    def _id_of(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise InputError(f"{self.file} has no token {token}; it is not the tokenizer of a T5.")
        return found

    def pieces(self) -> list[str]:
        """All tokens by their ids, added ones included."""
        return [self._tokenizer.id_to_token(i) or "" for i in range(self.vocab_size)]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def files(self) -> dict[str, Any]:
        return {
            run_files.TOKENIZER: self.file.read_bytes(),
            run_files.VOCABULARY: _description("tokenizers", 0, self.add_eos),
        }

    def _decode(self, ids: list[int]) -> str:
        known = [i for i in ids if i not in (self._pad_id, self.eos_id)]
        return self._tokenizer.decode(known, skip_special_tokens=False)


def with_sentinels(model: bytes, count: int) -> bytes:
    """A SentencePiece model with sentinels behind its pieces, `<extra_id_0>` the last of them."""
    if not count:
        return model
    from sentencepiece import sentencepiece_model_pb2

    # Made by protobuf as it is imported, and so unknown to type checkers.
    proto_of_model: Any = vars(sentencepiece_model_pb2)["ModelProto"]
    proto = proto_of_model.FromString(model)
    for i in reversed(range(count)):
        proto.pieces.add(
            piece=f"\N{LOWER ONE EIGHTH BLOCK}<extra_id_{i}>",
            score=0.0,
            type=proto_of_model.SentencePiece.USER_DEFINED,
        )
    return proto.SerializeToString()


def _description(kind: str, extra_ids: int, add_eos: bool) -> dict[str, Any]:
    return {"kind": kind, "extra_ids": extra_ids, "add_eos": add_eos}


def read(model_dir: str | os.PathLike) -> KeptVocabulary | None:
    """The vocabulary that a run's folder keeps; None where it keeps none.

    Raises:
      InputError: when it cannot be read.
    """
    path = as_path(model_dir) / run_files.VOCABULARY
    if not path.is_file():
        return None
    try:
        described = json.loads(path.read_text())
        kind, extra_ids, add_eos = (described[key] for key in ("kind", "extra_ids", "add_eos"))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path}, which says what the run's vocabulary is, cannot be read: {e!r}. Delete it to "
            "take the vocabulary of the task instead."
        ) from e
    if kind == "bytes":
        return Bytes(extra_ids, add_eos)
    if kind == "tokenizers":
        return Fast(path.with_name(run_files.TOKENIZER), add_eos)
    return Pieces(path.with_name(run_files.PIECES), add_eos, of=_OF_RUN)
