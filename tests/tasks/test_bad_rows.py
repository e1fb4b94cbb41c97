"""Bad data and settings are refused with the file, the line, the field and what would be right."""

import json
import logging

import pytest

from tests.tasks import raw_rows

seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")

from dpt_jax.tasks import TaskError, jsonl  # noqa: E402
from dpt_jax.tasks.benchmark import BENCHMARKS  # noqa: E402


def read(folder, name: str, split: str = "train"):
    return jsonl.read(BENCHMARKS[name], str(folder), split)


def path_of(folder, name: str, split: str = "train"):
    return folder / raw_rows.FOLDERS[name] / raw_rows.FILES[split]


def refused(folder, name: str, split: str = "train") -> str:
    with pytest.raises(TaskError) as error:
        read(folder, name, split)
    assert isinstance(error.value, ValueError)
    return str(error.value)


def write_changed(folder, name: str, change, split: str = "train") -> None:
    """Writes a split's rows with the second line changed."""
    rows = raw_rows.lines(name, split)
    change(rows[1])
    raw_rows.write_file(path_of(folder, name, split), rows)


@pytest.mark.parametrize(
    "line, said",
    [
        (b'{"premise": "a"', "not JSON"),
        (b'["a"]', "must be an object"),
        (b'{"premise": "\xff"}', "not UTF-8"),
        (b"{}", "field 'premise' is missing; there are none"),
    ],
)
def test_a_line_that_is_no_row(line, said, tmp_path):
    path = path_of(tmp_path, "rte")
    raw_rows.write_file(path, raw_rows.lines("rte", "train")[:2])
    # A blank line is counted; a line separator inside a text does not end the line.
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n")
    message = refused(tmp_path, "rte")
    assert message.startswith(f"{path}, line 4: ")
    assert said in message


def test_a_unicode_line_separator_does_not_end_a_line(tmp_path):
    rows = raw_rows.lines("rte", "train")
    rows[0]["premise"] = "one\u2028two\x85three"
    path = path_of(tmp_path, "rte")
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    assert "one\u2028two\x85three" in [row["premise"] for row in read(tmp_path, "rte")]


# Task, how its second row is changed, and what must be said of it.
CHANGES = {
    "a missing text": ("boolq", lambda r: r.pop("passage"), "field 'passage' is missing"),
    "a missing idx": ("cb", lambda r: r.pop("idx"), "field 'idx' is missing"),
    "a missing label": ("wic", lambda r: r.pop("label"), "field 'label' is missing"),
    "a number for a text": (
        "copa",
        lambda r: r.update(premise=3),
        "'premise' is 3; it must be a text",
    ),
    "a text for a number": (
        "wic",
        lambda r: r.update(start1="3"),
        "'start1' is \"3\"; it must be an",
    ),
    "a truth for a number": (
        "rte",
        lambda r: r.update(idx=True),
        "'idx' is true; it must be an int",
    ),
    "half a character": ("rte", lambda r: r.update(premise="\ud800"), "half surrogates"),
    "an unknown class": (
        "cb",
        lambda r: r.update(label="neutrall"),
        "'label' is \"neutrall\"; it must be one of entailment (0), contradiction (1), neutral (2)",
    ),
    "a number of no class": (
        "rte",
        lambda r: r.update(label=2),
        "'label' is 2; it must be one of entailment (0), not_entailment (1)",
    ),
    "a hidden label": ("cb", lambda r: r.update(label=-1), "'label' is -1; it must be one of"),
    "a truth for a class": ("rte", lambda r: r.update(label=True), "'label' is true; it must be"),
    "no truth": ("boolq", lambda r: r.update(label="yes"), "false or true (False or True)"),
    "a third choice": ("copa", lambda r: r.update(label=2), "'label' is 2; it must be 0 or 1"),
    "an id twice": ("rte", lambda r: r.update(idx=0), "idx 0 is also on line 1"),
    "a nested field": (
        "multirc",
        lambda r: r["passage"]["questions"][1]["answers"][0].pop("text"),
        "field 'passage.questions[1].answers[0].text' is missing",
    ),
    "a flat row without ids": (
        "multirc",
        lambda r: r.update(paragraph="p"),
        "field 'idx' is 1; it must be an object",
    ),
    "an entity that is no text": (
        "record",
        lambda r: r.update(
            query="q", passage="p", idx={"passage": 0, "query": 0}, answers=["a"], entities=[1]
        ),
        "field 'entities' is [1]; it must be a list of texts",
    ),
    "a label of an option": (
        "multirc",
        lambda r: r["passage"]["questions"][0]["answers"][1].update(label=7),
        "field 'passage.questions[0].answers[1].label' is 7",
    ),
    "an entity outside": (
        "record",
        lambda r: r["passage"]["entities"][0].update(end=900),
        "field 'passage.entities[0].start' is 0; it must be a place in the passage",
    ),
    "no list": ("record", lambda r: r.update(qas={}), "field 'qas' is {}; it must be a list"),
    "a pronoun elsewhere": (
        "wsc",
        lambda r: r["target"].update(span2_index=3),
        "field 'target.span2_index' is 3; it must be where 'he' stands in 'Mitchell asked",
    ),
    "a pronoun past the end": (
        "wsc",
        lambda r: r["target"].update(span2_index=99),
        "field 'target.span2_index' is 99",
    ),
    "a noun elsewhere": (
        "wsc",
        lambda r: r["target"].update(span1_index=1),
        "field 'target.span1_index' is 1; it must be where 'Tom' stands",
    ),
    "a noun that is not there": (
        "wsc",
        lambda r: r["target"].update(span1_text="Sam"),
        "field 'target.span1_text' is \"Sam\"; it must be at word 2, but 'Sam' does not stand",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_row_that_is_wrong_names_file_line_and_field(case, tmp_path):
    name, change, said = CHANGES[case]
    write_changed(tmp_path, name, change)
    message = refused(tmp_path, name)
    assert message.startswith(f"{path_of(tmp_path, name)}, line 2: ")
    assert said in message


def test_only_the_test_split_may_keep_labels_secret(tmp_path):
    raw_rows.write(tmp_path)
    for name, benchmark in BENCHMARKS.items():
        labels = {row.get("label") for row in read(tmp_path, name, "test")}
        assert labels == ({-1} if benchmark.classes else {None})


@pytest.mark.slow
def test_training_queries_without_an_answer_are_dropped_counted_and_said(
    tmp_path, monkeypatch, caplog
):
    rows = raw_rows.lines("record", "train")
    rows[0]["qas"][0]["answers"] = []
    del rows[2]["qas"][1]["answers"]
    raw_rows.write_file(path_of(tmp_path, "record"), rows)
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(tmp_path))
    task = seqio.TaskRegistry.get("dpt_record")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            dataset = task.get_dataset(None, split="train", shuffle=False)
            found = {tuple(row["idx"]) for row in dataset.as_numpy_iterator()}
        assert found == {(0, 1), (1, 5), (1, 6), (2, 10)}
        assert "2 training queries have no answer and are left out" in caplog.text


def test_a_validation_query_needs_an_answer(tmp_path):
    def no_answer(row):
        row["qas"][0]["answers"] = []

    write_changed(tmp_path, "record", no_answer, "validation")
    assert "field 'qas[0].answers' is []; it must be" in refused(tmp_path, "record", "validation")


def test_an_unknown_split(jsonl):
    task = seqio.TaskRegistry.get("dpt_rte")
    assert tuple(task.splits) == ("train", "validation", "test")
    with pytest.raises(TaskError, match="rte has no split 'dev'; it has train, validation, test"):
        task.source.get_dataset(split="dev")


@pytest.mark.parametrize(
    "made, said",
    [
        ((), "there is no folder"),
        (("superglue/CB",), "has no folder 'RTE' but CB"),
        (("superglue/RTE/dev.jsonl",), "holds dev.jsonl"),
    ],
)
def test_a_folder_without_the_tasks_file(made, said, tmp_path, monkeypatch):
    for path in made:
        (tmp_path / path).mkdir(parents=True)
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(tmp_path / "superglue"))
    with pytest.raises(TaskError) as error:
        seqio.TaskRegistry.get("dpt_rte").get_dataset(None, split="validation")
    looked_for = tmp_path / "superglue" / "RTE" / "val.jsonl"
    assert f"Looked for {looked_for}" in str(error.value)
    assert said in str(error.value)
    assert "DPT_SUPERGLUE_DIR" in str(error.value)


def test_rows_of_a_file_that_cannot_be_counted_are_unknown(tmp_path, monkeypatch):
    path = path_of(tmp_path, "multirc")
    path.parent.mkdir(parents=True)
    path.write_text("no json\n")
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(tmp_path))
    task = seqio.TaskRegistry.get("dpt_multirc")
    assert task.num_input_examples("train") is None
    # There is no such file.
    assert task.num_input_examples("validation") == 0
