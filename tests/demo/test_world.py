"""The demo's world: splits that never leak, generators that repeat, a vocabulary that covers it."""

import itertools
import subprocess
import sys

import pytest
import sentencepiece

from dpt_jax.demo import TASKS, VOCABULARY, skills, superglue, vocabulary, world


def examples(skill, split, count, seed=0):
    return list(itertools.islice(skills.skill_examples(skill, split, seed), count))


def body(example):
    """What an example is about: its input without the instruction."""
    return example.inputs.split(" : ", 1)[1]


def passages(text):
    """The texts that a body is built on, whatever the order of their sentences."""
    head = text.split(" hypothesis ")[0].split(" question ")[0].split(" word ")[0]
    parts = head.split(" two ") if text.startswith("one ") else [head]
    names = ("premise ", "passage ", "one ")
    for part in parts:
        for name in names:
            part = part.removeprefix(name)
        yield tuple(sorted(part.removesuffix(" .").split(" . ")))


def task_texts(task, split):
    return [superglue.text_to_text(task, row)["inputs"] for row in superglue.rows(task, split)]


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_no_text_is_in_both_splits_of_a_skill(skill):
    train = {body(example) for example in examples(skill, "train", 1500)}
    validation = {body(example) for example in examples(skill, "validation", 300)}
    assert not train & validation


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_splits_share_no_row_and_no_passage(task):
    train, validation = (task_texts(task, split) for split in ("train", "validation"))
    assert len(set(train)) == len(train)
    assert len(set(validation)) == len(validation)
    shared = {p for text in train for p in passages(text)} & {
        p for text in validation for p in passages(text)
    }
    assert not shared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "related"),
    [
        ("demo_entailment", ("entailment", "relation", "state", "referent", "denoise")),
        ("demo_questions", ("question", "value", "owner", "denoise")),
        ("demo_wordsense", ("word_sense", "topic_one", "topic_two")),
    ],
)
def test_pretraining_never_sees_a_passage_of_a_task(task, related):
    own = {p for split in superglue.SPLITS for t in task_texts(task, split) for p in passages(t)}
    for skill, split in itertools.product(related, ("train", "validation")):
        for example in examples(skill, split, 1500):
            text = body(example)
            if skill == "denoise":
                # The last sentence is the masked one; what stands before it is a whole passage.
                *passage, _ = text.removeprefix("text ").removesuffix(" .").split(" . ")
                assert tuple(sorted(passage)) not in own
            else:
                assert own.isdisjoint(passages(text))


def test_the_part_of_a_text_does_not_depend_on_the_order_of_its_sentences():
    facts = ["tom is at sea .", "anna likes red .", "ben has a kite ."]
    assert len({world.part_of(order) for order in itertools.permutations(facts)}) == 1


def test_the_parts_cover_every_hash_value_once():
    values = [value for shares in world.PARTITION.values() for value in shares]
    assert sorted(values) == list(range(256))


@pytest.mark.parametrize(
    ("skill", "task"),
    [
        ("entailment", "demo_entailment"),
        ("question", "demo_questions"),
        ("word_sense", "demo_wordsense"),
    ],
)
def test_pretraining_never_answers_a_skill_with_the_tasks_label_words(skill, task):
    labels = set(superglue.LABEL_WORDS[task])
    seen = examples(skill, "train", 3000)
    assert labels.isdisjoint(example.targets for example in seen)
    assert all(labels.isdisjoint(example.inputs.split()) for example in seen)


def test_pretraining_does_write_the_tasks_label_words_elsewhere():
    labels = {word for words in superglue.LABEL_WORDS.values() for word in words}
    written = {w for e in examples("copy", "train", 2000) for w in e.targets.split()}
    assert labels <= written


def test_the_mixture_repeats_with_its_seed_and_differs_with_another():
    def first(seed):
        return list(itertools.islice(skills.mixture("train", seed), 50))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_generation_does_not_depend_on_the_process():
    script = (
        "from dpt_jax.demo import skills, superglue\n"
        "print(next(skills.mixture('train', 5)))\n"
        "print(superglue.text_to_text('demo_questions', superglue.rows('demo_questions', "
        "'validation')[7]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PATH": "", "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_every_word_of_the_world_is_one_piece():
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY))
    texts = [t for e in itertools.islice(skills.mixture("validation", 1), 1500) for t in e[1:]]
    for task in TASKS:
        rows = superglue.rows(task, "validation")
        texts += [text for row in rows for text in superglue.text_to_text(task, row).values()]
    for text in texts:
        tokens = pieces.encode(text)
        assert vocabulary.UNK_ID not in tokens
        assert len(tokens) == len(text.split())
        assert pieces.decode(tokens) == text


def test_words_from_outside_the_world_are_spelled():
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY))
    for text in ("zebra", "a quick brown fox", "together"):
        assert vocabulary.UNK_ID not in pieces.encode(text)
        assert pieces.decode(pieces.encode(text)) == text


@pytest.mark.slow
def test_the_committed_vocabulary_is_what_its_script_makes():
    def pieces(**model):
        processor = sentencepiece.SentencePieceProcessor(**model)
        return [processor.id_to_piece(i) for i in range(processor.vocab_size())]

    made = vocabulary.train_vocabulary(vocabulary.corpus())
    assert pieces(model_proto=made) == pieces(model_file=str(VOCABULARY))
