"""Answers for SuperGLUE's server: the files that its authors' own code writes, word by word."""

import pytest

from dpt_jax.tasks import TASKS, submission
from dpt_jax.tasks.benchmark import BENCHMARKS, benchmark_of
from dpt_jax.tasks.errors import TaskError

# Task, predictions of the classes 0 and 1 (and 2), and the labels in the file.
LABELS = {
    "boolq": ("BoolQ.jsonl", ["false", "true"]),
    "cb": ("CB.jsonl", ["entailment", "contradiction", "neutral"]),
    "copa": ("COPA.jsonl", [0, 1]),
    "rte": ("RTE.jsonl", ["entailment", "not_entailment"]),
    "wic": ("WiC.jsonl", ["false", "true"]),
    "wsc": ("WSC.jsonl", ["False", "True"]),
}


@pytest.mark.parametrize("name", LABELS)
def test_classes_are_written_as_the_server_spells_them(name):
    file, labels = LABELS[name]
    benchmark = BENCHMARKS[name]
    assert submission.file_name(benchmark) == file
    predictions = [{"idx": [10 - i], "prediction": i} for i in range(len(labels))]
    lines, invalid = submission.lines(benchmark, predictions)
    assert lines == [{"idx": 10 - i, "label": label} for i, label in enumerate(labels)][::-1]
    assert [type(line["label"]) for line in lines] == [type(label) for label in labels][::-1]
    assert invalid == 0


def test_answers_that_are_no_class_are_counted_and_written_as_the_first():
    predictions = [{"idx": [0], "prediction": -1}, {"idx": [1], "prediction": 1}]
    lines, invalid = submission.lines(BENCHMARKS["boolq"], predictions)
    assert lines == [{"idx": 0, "label": "false"}, {"idx": 1, "label": "true"}]
    assert invalid == 1


def test_multircs_options_are_in_their_questions_and_paragraphs():
    ids = [(1, 3, 8), (0, 0, 1), (0, 0, 0), (0, 1, 2), (1, 3, 7)]
    predictions = [
        {"idx": list(i), "prediction": {"value": v}}
        for i, v in zip(ids, [1, 1, 0, -1, 0], strict=True)
    ]
    lines, invalid = submission.lines(BENCHMARKS["multirc"], predictions)
    assert lines == [
        {
            "idx": 0,
            "passage": {
                "questions": [
                    {"idx": 0, "answers": [{"idx": 0, "label": 0}, {"idx": 1, "label": 1}]},
                    {"idx": 1, "answers": [{"idx": 2, "label": 0}]},
                ]
            },
        },
        {
            "idx": 1,
            "passage": {
                "questions": [
                    {"idx": 3, "answers": [{"idx": 7, "label": 0}, {"idx": 8, "label": 1}]}
                ]
            },
        },
    ]
    assert invalid == 1


def test_records_answers_are_texts_by_query():
    predictions = [
        {"idx": [0, 5], "prediction": {"value": "Bo", "valid": True}},
        {"idx": [1, 4], "prediction": {"value": "nobody", "valid": False}},
    ]
    lines, invalid = submission.lines(BENCHMARKS["record"], predictions)
    assert lines == [{"idx": 5, "label": "Bo"}, {"idx": 4, "label": "nobody"}]
    assert invalid == 0


def test_a_row_with_two_answers_is_refused():
    twice = [{"idx": [0], "prediction": 1}] * 2
    with pytest.raises(TaskError, match="rte has two answers"):
        submission.lines(BENCHMARKS["rte"], twice)


def test_every_task_of_ours_is_one_of_the_eight():
    assert {task: benchmark_of(task).name for task in TASKS} == {
        task: name for task, (name, _) in TASKS.items()
    }
    assert benchmark_of("dpt_rte_digits_k8_s0").name == "rte"
    assert benchmark_of("dpt_wsc_p10_s0").name == "wsc"
    assert benchmark_of("dpt_superglue") is None
