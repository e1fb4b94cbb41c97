"""The miniature SuperGLUE: answers that follow from the text, and cues that do not give them."""

import math
import re
from collections import Counter, defaultdict

import pytest

from dpt_jax import demo
from dpt_jax.demo import TASKS, superglue, world

# The generator promises that no cue gets further than this above always saying the same.
MARGIN = 0.15

FIELDS = {
    "demo_entailment": ("premise", "hypothesis"),
    "demo_questions": ("passage", "question"),
    "demo_wordsense": ("sentence1", "sentence2", "word"),
}


def words(row, *fields):
    return " ".join(row[field] for field in fields).split()


def cue_accuracies(task):
    """Validation accuracy of every surface cue, each with its best rule learned on training."""
    first, second = FIELDS[task][:2]
    train, validation = (superglue.rows(task, split) for split in ("train", "validation"))
    cues = {
        "overlap": lambda row: len(set(words(row, first)) & set(words(row, second))),
        "length": lambda row: len(words(row, first, second)),
        "negation": lambda row: "not" in words(row, first, second),
        "last value occurs in the text": lambda row: words(row, second)[-2] in words(row, first),
        "place of the last value": lambda row: " ".join(words(row, first)).find(
            words(row, second)[-2]
        ),
        "place of the subject": lambda row: [
            w in words(row, second) for w in words(row, first)
        ].index(True),
        "first word": lambda row: words(row, first)[0],
        "last words": lambda row: tuple(words(row, second)[-3:]),
        "second text alone": lambda row: row[second],
        "third text alone": lambda row: row[FIELDS[task][-1]],
    }
    for word in sorted({word for row in train for word in words(row, *FIELDS[task])}):
        cues[f"word {word!r}"] = lambda row, word=word: word in words(row, *FIELDS[task])
    accuracies = {}
    for name, cue in cues.items():
        counts = defaultdict(Counter)
        for row in train:
            counts[cue(row)][row["label"]] += 1
        rule = {value: labels.most_common(1)[0][0] for value, labels in counts.items()}
        right = sum(rule.get(cue(row), 0) == row["label"] for row in validation)
        accuracies[name] = right / len(validation)
    for fields in ((first,), (second,), FIELDS[task]):
        accuracies[f"bag of words of {fields}"] = naive_bayes(train, validation, fields)
    return accuracies


def naive_bayes(train, validation, fields):
    counts = defaultdict(Counter)
    totals = Counter(row["label"] for row in train)
    for row in train:
        counts[row["label"]].update(set(words(row, *fields)))

    def score(row, label):
        return math.log(totals[label]) + sum(
            math.log((counts[label][word] + 1) / (totals[label] + 2))
            for word in set(words(row, *fields))
        )

    guesses = [max(totals, key=lambda label, row=row: score(row, label)) for row in validation]
    return sum(g == row["label"] for g, row in zip(guesses, validation, strict=True)) / len(guesses)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_no_surface_cue_solves_a_task(task):
    limit = demo.chance(task) + MARGIN
    telling = {cue: value for cue, value in cue_accuracies(task).items() if value > limit}
    assert not telling


def facts(text):
    return [sentence.split() for sentence in text.removesuffix(" .").split(" . ")]


def entailment_by_logic(row):
    *subject, _, adjective = [w for w in row["hypothesis"].split()[:-1] if w != "not"]
    noun = subject[-1]
    for fact in facts(row["premise"]):
        name, state = fact[-3], fact[-1]
        if noun not in (name, world.CATEGORY_OF[name]):
            continue
        if adjective not in (state, world.OPPOSITE[state]):
            return 2
        return int((adjective == state) == ("not" in row["hypothesis"].split()))
    raise AssertionError(row)


def question_by_lookup(row):
    who, what = re.fullmatch(
        r"(?:is|does|has) (\w+) (?:at|like|a) (\w+) \?", row["question"]
    ).groups()
    return int(any(fact[0] == who and fact[-1] == what for fact in facts(row["passage"])))


def sense_by_cue_words(row):
    def topic(sentence):
        senses = world.SENSES[row["word"]]
        return next(s for s in senses if set(world.TOPICS[s]) & set(sentence.split()))

    return int(topic(row["sentence1"]) == topic(row["sentence2"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("demo_entailment", entailment_by_logic),
        ("demo_questions", question_by_lookup),
        ("demo_wordsense", sense_by_cue_words),
    ],
)
def test_labels_follow_from_the_text(task, answer):
    for split in superglue.SPLITS:
        for row in superglue.rows(task, split):
            assert answer(row) == row["label"], row


@pytest.mark.parametrize("task", TASKS)
def test_classes_are_even_and_chance_is_the_majority_class(task):
    classes = len(superglue.LABEL_WORDS[task])
    for split, size in superglue.SIZES.items():
        counts = Counter(row["label"] for row in superglue.rows(task, split))
        assert sum(counts.values()) == size
        assert max(counts.values()) - min(counts.values()) <= 1
    assert demo.chance(task) == pytest.approx(1 / classes, abs=0.01)


def test_an_unknown_task_or_split_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="demo_entailment"):
        superglue.rows("demo_copa", "train")
    with pytest.raises(ValueError, match="train, validation"):
        superglue.rows("demo_entailment", "test")
