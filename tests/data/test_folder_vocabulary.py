"""The vocabulary that a pretrained T5's folder brings."""

import json
import shutil

import pytest

from dpt_jax.data.folder_vocabulary import open_vocabulary
from dpt_jax.data.vocabularies import check_vocabulary
from dpt_jax.demo import VOCABULARY
from dpt_jax.errors import InputError
from dpt_jax.models import T5Config
from tests.support import runs

TEXT = "is the red cup big ?"


def unigram(folder, word="red"):
    """A `tokenizer.json` of five pieces, as transformers writes a T5's; returns what made it."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -9.0),
        (f"▁{word}", -1.0),
        ("▁", -2.0),
    ]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.save(str(folder / "tokenizer.json"))
    return made


def test_pieces_are_found_under_both_names_and_get_t5s_sentinels_where_there_is_room(tmp_path):
    shutil.copy(VOCABULARY, tmp_path / "spiece.model")
    few = open_vocabulary(tmp_path, 256)
    many = open_vocabulary(tmp_path, few.vocab_size + 100)
    assert many.vocab_size == few.vocab_size + 100
    assert few.encode(TEXT) == many.encode(TEXT) and few.decode(few.encode(TEXT)) == TEXT
    assert many.encode("<extra_id_0>")[-1] == many.vocab_size - 1
    named = open_vocabulary("gs://bucket/t5", 256, tokenizer=VOCABULARY)
    assert named.encode(TEXT) == few.encode(TEXT)


def test_a_tokenizer_json_is_read_without_pieces_beside_it(tmp_path):
    unigram(tmp_path)
    found = open_vocabulary(tmp_path, 8)
    assert (found.eos_id, found.unk_id, found.vocab_size) == (1, 2, 5)
    assert found.encode("red red") == [3, 3]
    # As far as the first end, and without padding.
    assert found.decode([3, 0, 1, 3]) == "red"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer.json is no tokenizer"):
        open_vocabulary(tmp_path, 8)


def test_truncation_and_padding_in_a_tokenizer_json_change_no_text(tmp_path):
    made, file = unigram(tmp_path), tmp_path / "tokenizer.json"
    made.enable_truncation(2)
    made.enable_padding(length=8, pad_id=0, pad_token="<pad>")
    made.save(str(file))
    found = open_vocabulary(tmp_path, 8)
    for text, ids in (("red red red", [3, 3, 3]), ("red", [3]), ("", [])):
        assert found.encode(text) == ids
    transformers = pytest.importorskip("transformers", reason="extra `interop`")
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), **names)
    assert theirs("red red red", add_special_tokens=False).input_ids == [3, 3, 3]


def test_the_pieces_of_a_tokenizer_json_are_compared_with_the_models(tmp_path):
    folders = [tmp_path / word for word in ("red", "blue")]
    for folder in folders:
        folder.mkdir()
        made = unigram(folder, folder.name)
        made.add_tokens(["<sep>", "<extra_id_0>"])
        made.save(str(folder / "tokenizer.json"))
    red, blue = (open_vocabulary(folder, 8) for folder in folders)
    model = T5Config(emb_dim=runs.WIDTH, **runs.SIZES | {"vocab_size": 8})
    check_vocabulary(red, model, "pairs", str(folders[0]))
    with pytest.raises(InputError, match="piece 3 is '▁blue' in .* and '▁red' in .*tokenizer.json"):
        check_vocabulary(blue, model, "pairs", str(folders[0]))


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_byt5_names_its_class_and_has_bytes(tmp_path, file):
    (tmp_path / file).write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    found = open_vocabulary(tmp_path, 384)
    assert found.encode("ab") == [100, 101] and found.decode([100, 101, 1, 100]) == "ab"


def test_what_was_looked_for_is_said(tmp_path):
    with pytest.raises(InputError, match="sentencepiece.model, spiece.model, tokenizer.json.*ByT5"):
        open_vocabulary(tmp_path, 32128)
    with pytest.raises(InputError, match="the model embeds 100"):
        open_vocabulary(tmp_path, 100, tokenizer="bytes")
