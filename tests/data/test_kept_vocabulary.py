"""What a run's folder keeps of its vocabulary encodes and decodes as SeqIO does."""

import functools
import pathlib
import random

import pytest
import seqio
from sentencepiece import sentencepiece_model_pb2

from dpt_jax import run_files
from dpt_jax.data import kept_vocabulary
from dpt_jax.demo import VOCABULARY
from dpt_jax.errors import InputError
from dpt_jax.files import write_json

T5_VOCABULARY = (
    pathlib.Path(__file__).parents[3] / "shared" / "data" / "t5_vocab" / "sentencepiece.model"
)
TEXTS = [
    "",
    " ",
    "is the red cup on the table ?",
    "  Two  spaces\tand\na tab ",
    "naïve café, Ångström, ﬁne, ½",
    "日本語のテキスト и русский",
    "👩‍👩‍👧 \u200b\x00 end",
    "<extra_id_0> a <extra_id_99> b<extra_id_5>",
    "</s> <pad> <unk> ▁",
]
pieces = functools.partial(seqio.SentencePieceVocabulary, str(VOCABULARY))


def t5():
    if not T5_VOCABULARY.exists():
        pytest.skip("no ../shared/data/t5_vocab")
    return seqio.SentencePieceVocabulary(str(T5_VOCABULARY), extra_ids=100)


VOCABULARIES = {
    "pieces": pieces,
    "pieces and sentinels": lambda: pieces(extra_ids=100),
    "sentinels in ascending order": lambda: pieces(extra_ids=7, reverse_extra_ids=False),
    "another normalization": lambda: pieces(
        normalizer_spec_overrides=sentencepiece_model_pb2.NormalizerSpec(
            remove_extra_whitespaces=False
        )
    ),
    "T5's": t5,
    "bytes": seqio.ByteVocabulary,
    "ByT5's": lambda: seqio.ByteVocabulary(extra_ids=125),
}


def keep(folder, vocabulary, add_eos=True):
    files = kept_vocabulary.files_of(seqio.Feature(vocabulary, add_eos=add_eos))
    write(folder, files)
    return list(files)


def write(folder, files):
    for name, value in files.items():
        if isinstance(value, bytes):
            (folder / name).write_bytes(value)
        else:
            write_json(folder / name, value)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_it_says_the_same_as_seqio(tmp_path, name):
    vocabulary = VOCABULARIES[name]()
    keep(tmp_path, vocabulary, add_eos=name == "bytes")
    kept = kept_vocabulary.read(tmp_path)
    assert kept.add_eos == (name == "bytes")
    assert kept.eos_id == vocabulary.eos_id == 1
    assert kept.vocab_size == vocabulary.vocab_size
    rng = random.Random(0)
    # Beyond the pieces as well: the model's table has more rows.
    ids = [[rng.randrange(vocabulary.vocab_size + 60) for _ in range(12)] for _ in range(200)]
    ids += [row[:5] + [1] + row[5:] for row in ids[:20]] + [[], [1], [0, 0], [2]]
    for text in TEXTS:
        encoded = kept.encode(text)
        assert encoded == list(vocabulary.encode(text)), text
        ids += [encoded, [*encoded, 1, 0, 0], [*encoded, 1, *encoded]]
    for row in ids:
        assert kept.decode(row) == vocabulary.decode(row), row


def test_the_last_sentinel_of_t5_is_its_first_free_id(tmp_path):
    keep(tmp_path, pieces(extra_ids=100))
    kept = kept_vocabulary.read(tmp_path)
    size = pieces().vocab_size
    assert kept.encode("<extra_id_99>")[-1] == size and kept.encode("<extra_id_0>")[-1] == size + 99


class Shouting(seqio.ByteVocabulary):
    def encode(self, s):
        return super().encode(s.upper())


def test_what_does_something_else_is_not_kept(tmp_path):
    for vocabulary in (Shouting(), seqio.PassThroughVocabulary(10)):
        assert keep(tmp_path, vocabulary) == []
    assert kept_vocabulary.read(tmp_path) is None


def test_pieces_that_are_gone_are_named(tmp_path):
    assert keep(tmp_path, pieces()) == [run_files.PIECES, run_files.VOCABULARY]
    for broken in (b"half of it", None):
        (tmp_path / run_files.PIECES).unlink()
        if broken is not None:
            (tmp_path / run_files.PIECES).write_bytes(broken)
        with pytest.raises(InputError, match="sentencepiece.model, the run's vocabulary, cannot"):
            kept_vocabulary.read(tmp_path)


@pytest.mark.parametrize("left", ['{"kind": "byt', "[]", '{"kind": "bytes"}'])
def test_a_damaged_description_is_named_with_what_to_do(left, tmp_path):
    (tmp_path / run_files.VOCABULARY).write_text(left)
    with pytest.raises(InputError, match=r"vocabulary.json, which says .* Delete it"):
        kept_vocabulary.read(tmp_path)


@pytest.mark.parametrize("extra_ids", [0, 100])
def test_a_models_own_pieces_with_sentinels_are_seqios(extra_ids):
    ours, theirs = (
        kept_vocabulary.Pieces(VOCABULARY, True, extra_ids),
        pieces(extra_ids=extra_ids),
    )
    assert ours.vocab_size == theirs.vocab_size
    for text in TEXTS:
        assert ours.encode(text) == list(theirs.encode(text)), text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("name", ["bytes", "pieces and sentinels"])
def test_a_vocabulary_of_ours_keeps_what_seqios_does(tmp_path, name):
    ours = {
        "bytes": kept_vocabulary.Bytes(0, add_eos=True),
        "pieces and sentinels": kept_vocabulary.Pieces(VOCABULARY, True, 100),
    }[name]
    expected = kept_vocabulary.files_of(seqio.Feature(VOCABULARIES[name](), add_eos=True))
    files = ours.files()
    assert files.keys() == expected.keys()
    assert files[run_files.VOCABULARY] == expected[run_files.VOCABULARY]
    write(tmp_path, files)
    again = kept_vocabulary.read(tmp_path)
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text)
