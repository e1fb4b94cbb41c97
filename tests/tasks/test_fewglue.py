"""Real SuperGLUE rows go through all eight tasks."""

import json
import pathlib
import shutil

import pytest

from tests.tasks import raw_rows

seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")

import dpt_jax.tasks as tasks  # noqa: E402

FEWGLUE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "fewglue"

pytestmark = pytest.mark.skipif(
    not FEWGLUE.exists(), reason="../shared/data/fewglue is not beside the checkout"
)


def lines(name: str) -> list[dict]:
    text = (FEWGLUE / raw_rows.FOLDERS[name] / "train.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def fewglue(tmp_path, monkeypatch):
    """FewGLUE's training rows as training and validation rows."""
    for folder in raw_rows.FOLDERS.values():
        (tmp_path / folder).mkdir()
        for file in ("train.jsonl", "val.jsonl"):
            shutil.copy(FEWGLUE / folder / "train.jsonl", tmp_path / folder / file)
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(tmp_path))


@pytest.mark.slow
def test_every_row_becomes_an_example_that_its_own_answer_solves(fewglue):
    for task, (name, _) in tasks.TASKS.items():
        registered = seqio.TaskRegistry.get(task)
        dataset = registered.get_dataset(None, split="validation", shuffle=False)
        rows = list(dataset.as_numpy_iterator())
        if name == "multirc":
            questions = [q for line in lines(name) for q in line["passage"]["questions"]]
            assert len(rows) == sum(len(q["answers"]) for q in questions)
        else:
            assert len(rows) == sum(len(line.get("qas", [0])) for line in lines(name))
        answers = [row["targets_pretokenized"].decode() for row in rows]
        pairs = list(zip(answers, rows, strict=True))
        targets = [registered.postprocess_fn(a, example=r, is_target=True) for a, r in pairs]
        said = [registered.postprocess_fn(a, example=r, is_target=False) for a, r in pairs]
        scores = {
            k: v for fn in registered.predict_metric_fns for k, v in fn(targets, said).items()
        }
        assert scores.pop("invalid") == 0
        assert set(scores.values()) == {100.0}, (task, scores)
        for row in rows:
            assert row["inputs"][-1] == row["targets"][-1] == 1


@pytest.mark.slow
def test_texts_hold_the_fields_of_the_rows(fewglue):
    fields = {
        "boolq": ("passage", "question"),
        "cb": ("hypothesis", "premise"),
        "rte": ("hypothesis", "premise"),
        "wic": ("sentence1", "sentence2", "word"),
    }
    for name, order in fields.items():
        task = seqio.TaskRegistry.get(f"dpt_{name}")
        dataset = task.get_dataset(None, split="train", shuffle=False)
        texts = {r["inputs_pretokenized"].decode() for r in dataset.as_numpy_iterator()}
        assert texts == {
            " ".join([name, *(f"{field}: {line[field]}" for field in order)])
            for line in lines(name)
        }


@pytest.mark.slow
def test_wsc_marks_the_pronoun_of_the_real_rows(fewglue):
    task = seqio.TaskRegistry.get("dpt_wsc")
    dataset = task.get_dataset(None, split="train", shuffle=False)
    texts = {
        int(r["idx"][0]): r["inputs_pretokenized"].decode() for r in dataset.as_numpy_iterator()
    }
    for line in lines("wsc"):
        marked, target = texts[line["idx"]].removeprefix("wsc: "), line["target"]
        assert f"*{target['span2_text']}*" in marked
        assert "".join(marked.replace("*", "").split()) == "".join(line["text"].split())
