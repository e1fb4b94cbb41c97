"""Importing the package, and what is set from outside."""

import json
import os
import pathlib
import pickle
import types

import gin
import pytest

seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")

from dpt_jax.cli.main import main  # noqa: E402
from dpt_jax.data.tasks import get_vocabulary  # noqa: E402
from dpt_jax.errors import InputError  # noqa: E402
from dpt_jax.tasks import TASKS, TaskError, register, settings, vocabulary  # noqa: E402
from tests.support import processes  # noqa: E402
from tests.tasks import raw_rows  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO_VOCABULARY = ROOT / "dpt_jax" / "demo" / "backbone" / "sentencepiece.model"

EIGHT = {f"dpt_{name}" for name in "boolq cb copa multirc record rte wic wsc".split()}


def python(code: str, **environment) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("DPT_")} | environment
    [(status, out, err)] = processes.finish([processes.Process(["-c", code], env)])
    assert status == 0, err[-2000:]
    return out


@pytest.mark.slow
def test_importing_takes_no_network_and_registers_once():
    code = """
import importlib, socket
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import dpt_jax.tasks, seqio
first = {n: seqio.TaskRegistry.get(n) for n in seqio.TaskRegistry.names()}
importlib.reload(dpt_jax.tasks)
assert first == {n: seqio.TaskRegistry.get(n) for n in seqio.TaskRegistry.names()}
print(len(first), *sorted(seqio.MixtureRegistry.names()))
"""
    found = python(code).split()
    # Two formats, and nine draws of each.
    assert int(found[0]) == 16 * 10
    assert found[1:] == [
        "dpt_superglue",
        "dpt_superglue_digits",
        "dpt_superglue_equal",
        "dpt_superglue_equal_digits",
    ]


@pytest.mark.slow
def test_the_folder_cannot_be_imported_under_another_name():
    code = """
try:
    import tasks
except ImportError as e:
    print(e)
"""
    assert "import this package as `dpt_jax.tasks`, not as `tasks`" in python(code)


def test_the_tasks_are_the_eight_in_two_formats():
    assert set(TASKS) == EIGHT | {f"{name}_digits" for name in EIGHT}
    register()
    assert set(TASKS) <= set(seqio.TaskRegistry.names())


def test_every_task_has_t5s_metrics():
    wanted = {
        "cb": {"accuracy", "mean_f1"},
        "multirc": {"answer_options_f1", "question_exact_match"},
        "record": {"best_answer"},
    }
    for task, (name, _) in TASKS.items():
        found = {fn.__name__ for fn in seqio.TaskRegistry.get(task).predict_metric_fns}
        assert found == wanted.get(name, {"accuracy"})


@pytest.fixture
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def test_the_vocabulary_is_the_named_file_and_is_chosen_once(monkeypatch, tmp_path):
    chosen = vocabulary.TaskVocabulary()
    monkeypatch.setenv("DPT_VOCAB", str(DEMO_VOCABULARY))
    assert chosen.extra_ids == 0  # The demo's T5 has no rows for them.
    monkeypatch.setenv("DPT_VOCAB", str(tmp_path / "other"))
    plain = seqio.SentencePieceVocabulary(str(DEMO_VOCABULARY), extra_ids=0)
    assert chosen == plain and plain == chosen
    assert chosen != seqio.SentencePieceVocabulary(str(DEMO_VOCABULARY), extra_ids=100)
    assert chosen.vocab_size == plain.vocab_size
    assert chosen.encode("what is it") == plain.encode("what is it")
    assert pickle.loads(pickle.dumps(chosen)) == plain


def test_bytes_are_a_vocabulary_that_environment_and_gin_can_name(monkeypatch, clean_gin):
    from dpt_jax.data import kept_vocabulary

    monkeypatch.setenv("DPT_VOCAB", "bytes")
    by_environment = vocabulary.TaskVocabulary()
    assert by_environment.vocab_size == 384
    monkeypatch.delenv("DPT_VOCAB")
    gin.parse_config(
        """
        from __gin__ import dynamic_registration
        from dpt_jax.tasks import settings
        settings.vocabulary_file.path = "bytes"
        """
    )
    chosen, byt5 = vocabulary.TaskVocabulary(), seqio.ByteVocabulary(extra_ids=125)
    assert chosen == byt5 and byt5 == chosen and chosen == by_environment
    assert isinstance(chosen, seqio.ByteVocabulary)
    # ByT5's ids are those of UTF-8's bytes after the three special ones (Xue et al., 2022).
    assert chosen.encode("né") == [3 + byte for byte in "né".encode()]
    assert chosen.decode([113, 198, 172, 1]) == "né"
    assert pickle.loads(pickle.dumps(chosen)) == byt5
    kept = kept_vocabulary.files_of(seqio.Feature(chosen, add_eos=True))
    assert kept == {"vocabulary.json": {"kind": "bytes", "extra_ids": 125, "add_eos": True}}


def test_without_a_setting_the_vocabulary_is_t5s_public_one(monkeypatch):
    monkeypatch.delenv("DPT_VOCAB", raising=False)
    chosen = vocabulary.TaskVocabulary()
    assert chosen.sentencepiece_model_file.startswith("gs://t5-data/vocabs/cc_all.32000/")
    assert chosen.extra_ids == 100


def test_extra_ids_that_a_model_has_are_not_added_again(tmp_path):
    import sentencepiece

    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\na dog ran to the house\n" * 20)
    for name, symbols, expected in (
        ("with", ["<extra_id_1>", "<extra_id_0>"], 0),
        ("without", [], 100),
    ):
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=str(tmp_path / name),
            vocab_size=40,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            user_defined_symbols=symbols,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        assert vocabulary.read_extra_ids(str(tmp_path / f"{name}.model")) == expected
    # A model's folder says how many of them it has room for.
    plain = str(tmp_path / "without.model")
    count = sentencepiece.SentencePieceProcessor(plain).get_piece_size()
    for rows, expected in ((count + 99, 0), (count + 100, 100)):
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": rows}))
        assert vocabulary.read_extra_ids(plain) == expected
    (tmp_path / "backbone.json").write_text(json.dumps({"config": {"vocab_size": count}}))
    assert vocabulary.read_extra_ids(plain) == 0


@pytest.mark.parametrize("content", [None, b"no model"])
def test_a_vocabulary_that_cannot_be_read_is_named(content, tmp_path, monkeypatch):
    path = tmp_path / "spiece.model"
    if content:
        path.write_bytes(content)
    monkeypatch.setenv("DPT_VOCAB", str(path))
    with pytest.raises(TaskError, match=f"{path} cannot be read.*DPT_VOCAB"):
        _ = vocabulary.TaskVocabulary().vocab_size


def test_a_vocabulary_that_is_missing_is_told_of_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DPT_VOCAB", str(tmp_path / "spiece.model"))
    feature = seqio.Feature(vocabulary.TaskVocabulary())
    features = {"inputs": feature, "targets": feature}
    with pytest.raises(InputError, match=r"No such file.*bytes") as error:
        get_vocabulary(types.SimpleNamespace(name="dpt_rte", output_features=features))
    assert [str(error.value).count(part) for part in ("spiece.model", "DPT_VOCAB")] == [1, 1]


def test_gin_sets_both_and_wins_over_the_environment(monkeypatch, clean_gin):
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", "/from/environment")
    monkeypatch.setenv("DPT_VOCAB", "/from/environment")
    assert settings.superglue_dir() == settings.vocabulary_file() == "/from/environment"
    gin.parse_config(
        """
        from __gin__ import dynamic_registration
        from dpt_jax.tasks import registry
        from dpt_jax.tasks import settings
        settings.superglue_dir.path = "/from/gin"
        settings.vocabulary_file.path = "/from/gin/too"
        registry.examples_proportional.maximum = 5
        """
    )
    assert settings.superglue_dir() == "/from/gin"
    assert settings.vocabulary_file() == "/from/gin/too"


def test_the_packages_gin_file_sets_both(clean_gin):
    from dpt_jax import gin_utils

    bindings = ["SUPERGLUE_DIR = '/data/superglue'", "VOCABULARY = '/models/spiece.model'"]
    gin_utils.parse(["tasks/superglue.gin"], bindings)
    assert settings.superglue_dir() == "/data/superglue"
    assert settings.vocabulary_file() == "/models/spiece.model"
    assert gin.query_parameter("%MIXTURE_OR_TASK_MODULE") == "dpt_jax.tasks"


def test_dpt_tasks_takes_them_as_flags_and_lists_the_splits_that_are_there(
    tmp_path, monkeypatch, clean_gin, capsys
):
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", "/from/environment")
    # As in FewGLUE, which has no val.jsonl.
    raw_rows.write_file(tmp_path / "RTE" / "train.jsonl", raw_rows.lines("rte", "train"))
    flags = [f"--gin.SUPERGLUE_DIR='{tmp_path}'", "--gin.VOCABULARY='spiece.model'"]
    assert main(["tasks", "--json", *flags]) == 0
    splits = {row["name"]: row["splits"] for row in json.loads(capsys.readouterr().out)}
    assert splits["dpt_rte"] == {"train": len(raw_rows.lines("rte", "train"))}
    assert splits["dpt_cb"] == splits["dpt_superglue"] == {}
    assert settings.vocabulary_file() == "spiece.model"


def test_an_empty_setting_is_none(monkeypatch):
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", "")
    assert settings.superglue_dir() is None
