"""Answers in the form that SuperGLUE's server takes: a jsonl file per task, to be put into a zip.

The names of the files and the words of the labels are the server's own. The diagnostics (AX-b and
AX-g) are none of our tasks.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from dpt_jax.tasks.benchmark import Benchmark
from dpt_jax.tasks.errors import TaskError

Line = dict[str, Any]

# The word of each class, where it is not the class's name.
_WORDS: dict[str, tuple[Any, ...]] = {
    "boolq": ("false", "true"),
    "copa": (0, 1),
    "multirc": (0, 1),
    "wic": ("false", "true"),
}


def file_name(benchmark: Benchmark) -> str:
    """The name of a task's file in the zip."""
    return f"{benchmark.folder}.jsonl"


def lines(benchmark: Benchmark, predictions: Sequence[Mapping[str, Any]]) -> tuple[list[Line], int]:
    """The lines of a task's file.

    Args:
      benchmark: which of the eight.
      predictions: the row's `idx`, a list of the benchmark's ids, and the `prediction` that the
        task's postprocessor gives for the answer.

    Returns:
      The lines, by their ids, and how many answers were no class. The server refuses those, and
      they are written as the first class.

    Raises:
      TaskError: when a row is there twice.
    """
    answers: dict[tuple[int, ...], Any] = {}
    invalid = 0
    for row in predictions:
        ids = tuple(int(i) for i in row["idx"])
        said = row["prediction"]
        value = said["value"] if isinstance(said, Mapping) else said
        if benchmark.classes:
            invalid += value < 0
            value = _WORDS.get(benchmark.name, benchmark.classes)[max(int(value), 0)]
        if ids in answers:
            raise TaskError(f"The row {ids} of {benchmark.name} has two answers.")
        answers[ids] = value
    if benchmark.name == "multirc":
        return _grouped(answers), invalid
    # Of ReCoRD's passage and query, the query alone has a line.
    return [{"idx": ids[-1], "label": answers[ids]} for ids in sorted(answers)], invalid


def _grouped(answers: Mapping[tuple[int, ...], int]) -> list[Line]:
    """MultiRC's answer options, inside their questions, inside their paragraphs."""
    paragraphs: dict[int, dict[int, list[Line]]] = collections.defaultdict(dict)
    for paragraph, question, option in sorted(answers):
        line = {"idx": option, "label": answers[paragraph, question, option]}
        paragraphs[paragraph].setdefault(question, []).append(line)
    return [
        {
            "idx": paragraph,
            "passage": {"questions": [{"idx": q, "answers": a} for q, a in questions.items()]},
        }
        for paragraph, questions in paragraphs.items()
    ]
