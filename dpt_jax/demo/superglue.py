"""A miniature SuperGLUE, generated: three tasks with the schemas of CB, BoolQ and WiC.

No input says what to do, and the answers are label words that pretraining never paired with the
skill (`dpt_jax.demo.skills.TASK_LABELS`), so only a prompt can bring the answers out of the frozen
backbone. The texts come from parts of the world that pretraining never sees, training and
validation from different ones.
"""

import functools
import random
from collections import Counter
from collections.abc import Callable

from dpt_jax.demo import scenes, skills
from dpt_jax.demo.world import shuffled

#: A row: the fields of the SuperGLUE data set that the task is modelled on.
Row = dict[str, str | int]

#: Rows of each split.
SIZES = {"train": 4096, "validation": 400}
SPLITS = tuple(SIZES)
TASKS = ("demo_entailment", "demo_questions", "demo_wordsense")
"""The names of the demo's tasks."""

#: The answer to each label number, in the order of SuperGLUE's own labels: entailment,
#: contradiction, neutral for CB; false, true for BoolQ and WiC.
LABEL_WORDS: dict[str, tuple[str, ...]] = {
    "demo_entailment": skills.TASK_LABELS["entailment"],
    "demo_questions": skills.TASK_LABELS["question"][::-1],
    "demo_wordsense": skills.TASK_LABELS["word_sense"][::-1],
}


def _entailment_row(rng: random.Random, part: str, label: int) -> Row:
    scene = scenes.entailment(rng, part, scenes.ENTAILMENT_LABELS[label])
    return {"premise": scene.premise, "hypothesis": scene.hypothesis, "label": label}


def _question_row(rng: random.Random, part: str, label: int) -> Row:
    scene = scenes.question(rng, part, bool(label))
    return {"passage": scene.passage, "question": scene.question, "label": label}


def _word_sense_row(rng: random.Random, part: str, label: int) -> Row:
    scene = scenes.word_sense(rng, part, bool(label))
    return {
        "sentence1": scene.sentence1,
        "sentence2": scene.sentence2,
        "word": scene.word,
        "label": label,
    }


_ROWS: dict[str, Callable[[random.Random, str, int], Row]] = {
    "demo_entailment": _entailment_row,
    "demo_questions": _question_row,
    "demo_wordsense": _word_sense_row,
}


@functools.cache
def rows(task: str, split: str) -> tuple[Row, ...]:
    """All rows of a task's split, the same in every process.

    Labels are as even as the size allows, in random order; no row occurs twice.

    Args:
      task: one of `TASKS`.
      split: "train" or "validation".

    Raises:
      ValueError: for another task or split.
    """
    if task not in _ROWS:
        raise ValueError(f"No demo task {task!r}; there are {', '.join(TASKS)}.")
    if split not in SIZES:
        raise ValueError(f"{task} has no split {split!r}; it has {', '.join(SPLITS)}.")
    rng = random.Random(f"{task} {split}")
    classes = len(LABEL_WORDS[task])
    labels = shuffled(rng, [i % classes for i in range(SIZES[split])])
    distinct: dict[tuple, Row] = {}
    for label in labels:
        size = len(distinct)
        while len(distinct) == size:
            row = _ROWS[task](rng, f"task_{split}", label)
            distinct.setdefault(tuple(row.values()), row)
    return tuple(distinct.values())


def text_to_text(task: str, row: Row) -> dict[str, str]:
    """A row as `inputs` and `targets`: its fields after their markers, and its label word.

    The inputs are laid out as the bodies that pretraining has seen, without an instruction.
    """
    layout = {
        "demo_entailment": "premise {premise} hypothesis {hypothesis}",
        "demo_questions": "passage {passage} question {question}",
        "demo_wordsense": "one {sentence1} two {sentence2} word {word}",
    }[task]
    return {"inputs": layout.format(**row), "targets": LABEL_WORDS[task][int(row["label"])]}


def majority_class(task: str) -> tuple[str, float]:
    """The most frequent answer among a task's training rows, and its accuracy on validation."""
    counts = Counter(row["label"] for row in rows(task, "train"))
    label = min(counts, key=lambda value: (-counts[value], value))
    validation = rows(task, "validation")
    accuracy = sum(row["label"] == label for row in validation) / len(validation)
    return LABEL_WORDS[task][int(label)], accuracy
