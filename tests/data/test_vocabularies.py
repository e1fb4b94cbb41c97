"""A task's token ids have to mean to the model what they mean to the task."""

import io
import pathlib
import shutil

import pytest
import seqio

from dpt_jax.data.vocabularies import check_vocabulary, find_vocabulary
from dpt_jax.demo import BACKBONE_DIR, VOCABULARY
from dpt_jax.errors import InputError
from dpt_jax.models import T5Config
from dpt_jax.problems import text
from tests.support import runs

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
T5_VOCABULARY = SHARED / "t5_vocab" / "sentencepiece.model"


def model(rows):
    return T5Config(emb_dim=runs.WIDTH, **runs.SIZES | {"vocab_size": rows})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two SentencePiece models of the same size, and one of another."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("vocabularies")
    texts = {
        "fruit": ["an apple and a pear", "a plum and a cherry", "pears and apples"],
        "tools": ["an awl and a saw", "a plane and a vice", "saws and hammers"],
        "large": ["an awl and a saw", "a plane and a vice", "saws and hammers"],
    }
    for name, lines in texts.items():
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines * 10),
            model_writer=written,
            vocab_size={"large": 21}.get(name, 20),
            hard_vocab_limit=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
        (folder / f"{name}.model").write_bytes(written.getvalue())
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
    assert find_vocabulary(path) == tmp_path / name
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
    assert message in str(error.value) and f"DPT_VOCAB={path}/spiece.model" in str(error.value)


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
    with pytest.raises(InputError, match="'toy_x' has another vocabulary than the model"):
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
