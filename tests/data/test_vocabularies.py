"""A task's token ids have to mean to the model what they mean to the task."""

import io
import json
import logging
import pathlib
import shutil

import pytest
import seqio

from dpt_jax.cli import main
from dpt_jax.data import model_vocabulary
from dpt_jax.data.vocabularies import check_vocabulary
from dpt_jax.demo import BACKBONE_DIR, VOCABULARY
from dpt_jax.errors import InputError
from dpt_jax.models import T5Config
from dpt_jax.problems import text
from tests.support import runs

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
T5_VOCABULARY = SHARED / "t5_vocab" / "sentencepiece.model"


def model(rows):
    return T5Config(emb_dim=runs.WIDTH, **runs.SIZES | {"vocab_size": rows})


def train_pieces(file, lines, **settings):
    """Trains a SentencePiece model; the special ids are the trainer's own unless given."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines * 10),
        model_writer=written,
        hard_vocab_limit=True,
        minloglevel=2,
        **settings,
    )
    file.write_bytes(written.getvalue())
    return str(file)


T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two SentencePiece models of the same size, and one of another."""
    folder = tmp_path_factory.mktemp("vocabularies")
    texts = {
        "fruit": ["an apple and a pear", "a plum and a cherry", "pears and apples"],
        "tools": ["an awl and a saw", "a plane and a vice", "saws and hammers"],
        "large": ["an awl and a saw", "a plane and a vice", "saws and hammers"],
    }
    for name, lines in texts.items():
        size = {"large": 21}.get(name, 20)
        train_pieces(folder / f"{name}.model", lines, vocab_size=size, **T5_IDS)
    return folder


def checkpoint(folder, file, name="spiece.model"):
    """A folder with a vocabulary as checkpoints have it."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(file, folder / name)
    return str(folder)


@pytest.mark.parametrize(
    ("pieces", "rows", "fits"),
    [
        (32_100, 32_128, True),  # T5 and its sentinels
        (32_000, 32_128, True),  # T5 without
        (250_100, 250_112, True),  # mT5
        (256_000, 256_384, True),  # umT5 without its 300 sentinels
        (259, 384, True),  # ByT5 without sentinels
        (264, 264, True),
        (4_000, 32_128, False),
        (32_100, 250_112, False),
        (32_129, 32_128, False),
    ],
)
def test_without_a_file_the_sizes_decide(pieces, rows, fits):
    vocabulary = seqio.ByteVocabulary(extra_ids=pieces - 259)
    assert vocabulary.vocab_size == pieces
    if fits:
        check_vocabulary(vocabulary, model(rows), "a_task")
        return
    with pytest.raises(InputError) as error:
        check_vocabulary(vocabulary, model(rows), "a_task")
    for part in ("'a_task'", str(pieces), str(rows), "DPT_VOCAB"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.model"])
@pytest.mark.parametrize("extra_ids", [0, 5])
def test_the_models_own_file_fits_with_and_without_sentinels(files, tmp_path, name, extra_ids):
    path = checkpoint(tmp_path, files / "fruit.model", name)
    assert model_vocabulary.read(path).file == tmp_path / name
    # Another copy of the same pieces, and a table far larger than they are.
    vocabulary = seqio.SentencePieceVocabulary(str(files / "fruit.model"), extra_ids=extra_ids)
    check_vocabulary(vocabulary, model(4096), "a_task", path)


@pytest.mark.parametrize(
    ("task", "message"),
    [("tools", "piece "), ("large", "large.model has 21 pieces, "), (None, "a ByteVocabulary")],
)
def test_other_pieces_are_refused_even_where_the_sizes_agree(files, tmp_path, task, message):
    path = checkpoint(tmp_path, files / "fruit.model")
    vocabulary = seqio.ByteVocabulary(extra_ids=0)
    if task:
        vocabulary = seqio.SentencePieceVocabulary(str(files / f"{task}.model"))
    with pytest.raises(InputError) as error:
        check_vocabulary(vocabulary, model(vocabulary.vocab_size), "a_task", path)
    assert message in str(error.value) and f"to {path}/spiece.model" in str(error.value)


def test_a_file_that_is_no_vocabulary_is_named(files, tmp_path):
    (tmp_path / "spiece.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    vocabulary = seqio.SentencePieceVocabulary(str(files / "fruit.model"))
    with pytest.raises(InputError, match="spiece.model, beside the weights .* is no SentencePiece"):
        check_vocabulary(vocabulary, model(32), "a_task", str(tmp_path))


def test_the_demos_vocabulary_is_its_backbones():
    vocabulary = seqio.SentencePieceVocabulary(str(VOCABULARY))
    check_vocabulary(vocabulary, model(256), "demo_entailment", str(BACKBONE_DIR))


def test_a_run_with_another_vocabulary_does_not_begin(files, backbone, tmp_path):
    path = tmp_path / "backbone"
    shutil.copytree(backbone, path)
    checkpoint(path, files / "fruit.model")
    with pytest.raises(InputError, match="The vocabulary of 'toy_x' is not the model's"):
        text.train(runs.run_config(tmp_path / "run", path))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not T5_VOCABULARY.exists(), reason="no ../shared/data/t5_vocab")
def test_t5s_vocabulary_with_its_sentinels_fits_a_folder_that_has_it(files, tmp_path):
    path = checkpoint(tmp_path, T5_VOCABULARY)
    for extra_ids in (0, 100):
        vocabulary = seqio.SentencePieceVocabulary(str(T5_VOCABULARY), extra_ids=extra_ids)
        check_vocabulary(vocabulary, model(32_128), "a_task", path)
    small = seqio.SentencePieceVocabulary(str(files / "fruit.model"))
    with pytest.raises(InputError, match="has 20 pieces, .*spiece.model 32000"):
        check_vocabulary(small, model(32_128), "a_task", path)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (384, r"ByT5's: bytes"),
        (32_128, r"T5's: gs://t5-data/vocabs/cc_all\.32000/"),
        (250_112, r"mT5's: gs://t5-data/vocabs/mc4\.250000\.100extra/"),
        (256_384, r"umT5's: gs://t5-data/vocabs/umt5\.256000/"),
    ],
)
def test_the_vocabulary_of_a_published_model_is_named(rows, named):
    others = seqio.ByteVocabulary(extra_ids=200 if rows == 384 else 0)
    with pytest.raises(InputError, match=rf"DPT_VOCAB, .*\) to the model's own.*\({named}"):
        check_vocabulary(others, model(rows), "a_task")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """SentencePiece models whose special ids are not T5's, by what is wrong with them."""
    from sentencepiece import sentencepiece_model_pb2

    folder = tmp_path_factory.mktemp("foreign")
    lines = ["an apple and a pear", "a plum and a cherry"]
    found = {
        "ends rows in id 2 and has id 0 for what it": train_pieces(
            folder / "defaults.model", lines, vocab_size=20
        ),
        "ends rows in id 2,": train_pieces(
            folder / "eos.model", lines, vocab_size=20, pad_id=0, bos_id=1, eos_id=2, unk_id=3
        ),
    }
    file = folder / "text.model"
    train_pieces(file, lines, vocab_size=20, **T5_IDS)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.read_bytes())
    proto.pieces[0].piece, proto.pieces[0].type = "an", proto.SentencePiece.NORMAL
    file.write_bytes(proto.SerializeToString())
    return found | {"has a piece of text as id 0": str(file)}


@pytest.mark.parametrize("number", range(3))
def test_special_ids_that_are_not_t5s_are_refused(foreign, tmp_path, number):
    wrong, file = list(foreign.items())[number]
    # The model's folder has the same file: the pieces agree.
    path = checkpoint(tmp_path, file)
    vocabulary = seqio.SentencePieceVocabulary(file, extra_ids=0)
    with pytest.raises(InputError, match=rf"{file} of 'a_task' {wrong}.*--pad_id=0 --eos_id=1"):
        check_vocabulary(vocabulary, model(vocabulary.vocab_size), "a_task", path)


def test_tasks_show_refuses_special_ids_that_are_not_t5s(foreign, capsys):
    vocabulary = seqio.SentencePieceVocabulary(next(iter(foreign.values())), extra_ids=0)
    features = {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}
    source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, ["train"])
    seqio.TaskRegistry.add("foreign_ids", source=source, preprocessors=[], output_features=features)
    try:
        assert main.main(["tasks", "show", "foreign_ids"]) == 2
    finally:
        seqio.TaskRegistry.remove("foreign_ids")
    assert "ends rows in id 2 and has id 0" in capsys.readouterr().err


def added_to(folder, form, tokens):
    """Writes that a tokenizer has added tokens, in one of the forms that Transformers has had."""
    named = [{"id": index, "content": token} for token, index in tokens.items()]
    contents = {
        "added_tokens.json": tokens,
        "tokenizer_config.json": {"added_tokens_decoder": {str(t["id"]): t for t in named}},
        "tokenizer.json": {"added_tokens": named, "model": {"type": "Unigram", "vocab": []}},
    }
    (folder / form).write_text(json.dumps(contents[form]))


@pytest.mark.parametrize("form", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_added_tokens_that_the_vocabulary_splits_are_counted_and_named(
    files, tmp_path, form, caplog
):
    path = checkpoint(tmp_path, files / "fruit.model")
    known = {"<pad>": 0, "</s>": 1, "<extra_id_0>": 119}
    added_to(tmp_path, form, known)
    vocabulary = seqio.SentencePieceVocabulary(str(files / "fruit.model"), extra_ids=100)
    check_vocabulary(vocabulary, model(128), "a_task", path)
    assert not caplog.records
    added_to(tmp_path, form, known | {"[CITY]": 120, "[MAN]": 121})
    with caplog.at_level(logging.WARNING):
        check_vocabulary(vocabulary, model(128), "a_task", path)
    assert "knows 2 added token(s)" in caplog.text
    assert "of 'a_task', does not: '[CITY]' (120), '[MAN]' (121)." in caplog.text


def test_a_bytes_model_with_added_tokens_is_warned_of_too(tmp_path, caplog):
    added_to(tmp_path, "added_tokens.json", {"<pad>": 0, "<unk>": 2, "[CITY]": 384})
    check_vocabulary(seqio.ByteVocabulary(extra_ids=125), model(512), "a_task", str(tmp_path))
    assert "knows 1 added token(s)" in caplog.text and "'[CITY]' (384)" in caplog.text


@pytest.mark.interop
def test_added_tokens_that_the_vocabulary_has_get_the_ids_of_transformers(tmp_path, caplog):
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    from sentencepiece import sentencepiece_model_pb2

    path = checkpoint(tmp_path, VOCABULARY)
    tokenizer = transformers.T5Tokenizer.from_pretrained(path)
    tokenizer.add_tokens(["[CITY]"])
    tokenizer.save_pretrained(path)
    theirs = tokenizer("ball [CITY] red", add_special_tokens=False).input_ids
    # Its sentinels come first.
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(VOCABULARY.read_bytes())
    for token in [*(f"<extra_id_{i}>" for i in reversed(range(100))), "[CITY]"]:
        proto.pieces.add(piece=token, type=proto.SentencePiece.USER_DEFINED)
    file = tmp_path / "with_city.model"
    file.write_bytes(proto.SerializeToString())
    vocabulary = seqio.SentencePieceVocabulary(str(file), extra_ids=0)
    assert [i for i in theirs if i >= 244] == [344]
    assert 344 in vocabulary.encode("ball [CITY] red")
    # Both where spiece.model lies beside the weights, and where the fast tokenizer alone does.
    for removed in (None, "spiece.model"):
        if removed:
            (tmp_path / removed).unlink()
        check_vocabulary(vocabulary, model(384), "a_task", path)
    assert not caplog.records


@pytest.mark.interop
def test_the_pieces_of_a_fast_tokenizer_are_compared(files, tmp_path):
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    path = checkpoint(tmp_path, files / "fruit.model")
    transformers.T5Tokenizer.from_pretrained(path).save_pretrained(path)
    wanted = model_vocabulary.read(path).pieces
    (tmp_path / "spiece.model").unlink()
    found = model_vocabulary.read(path)
    assert (found.file, found.pieces) == (tmp_path / "tokenizer.json", wanted)
    fruit, tools = (
        seqio.SentencePieceVocabulary(str(files / f"{name}.model"), extra_ids=100)
        for name in ("fruit", "tools")
    )
    check_vocabulary(fruit, model(128), "a_task", path)
    with pytest.raises(InputError, match="piece .* in .*tokenizer.json"):
        check_vocabulary(tools, model(128), "a_task", path)


@pytest.mark.parametrize("contents", ["{", "[]", '{"added_tokens": [3]}', '{"model": "t5"}'])
def test_a_damaged_tokenizer_is_one_message(tmp_path, contents):
    (tmp_path / "tokenizer.json").write_text(contents)
    with pytest.raises(InputError, match="tokenizer.json.*opy"):
        model_vocabulary.read(str(tmp_path))
