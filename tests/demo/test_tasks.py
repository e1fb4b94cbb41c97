"""The demo's tasks as SeqIO gives them to a trainer."""

import subprocess
import sys

import pytest

seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")

from dpt_jax.demo import MIXTURE, TASKS, superglue, tasks  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_task_gives_the_generated_rows_as_tokens(task):
    registered = seqio.get_mixture_or_task(task)
    dataset = registered.get_dataset(
        {"inputs": 36, "targets": 6}, split="validation", shuffle=False
    )
    vocabulary = registered.output_features["inputs"].vocabulary
    rows = superglue.rows(task, "validation")
    seen = 0
    for example, row in zip(dataset.as_numpy_iterator(), rows, strict=True):
        text = superglue.text_to_text(task, row)
        assert example["inputs"][-1] == example["targets"][-1] == vocabulary.eos_id == 1
        assert vocabulary.decode(example["inputs"][:-1].tolist()) == text["inputs"]
        assert vocabulary.decode(example["targets"][:-1].tolist()) == text["targets"]
        assert len(example["targets"]) == 2, "an answer is one word"
        seen += 1
    assert seen == registered.num_input_examples("validation") == 400


@pytest.mark.slow
def test_a_few_shot_draw_is_part_of_the_training_rows_and_of_the_larger_draws():
    def drawn(k, seed):
        task = seqio.get_mixture_or_task(f"demo_questions_k{k}_s{seed}")
        assert task.num_input_examples("train") == k
        dataset = task.get_dataset({"inputs": 36, "targets": 6}, split="train", shuffle=False)
        return {tuple(example["inputs"].tolist()) for example in dataset.as_numpy_iterator()}

    vocabulary = seqio.get_mixture_or_task("demo_questions").output_features["inputs"].vocabulary
    rows = superglue.rows("demo_questions", "train")
    known = {superglue.text_to_text("demo_questions", row)["inputs"] for row in rows}
    small, large = drawn(8, 0), drawn(16, 0)
    assert len(small) == 8 and len(large) == 16 and small < large
    assert {vocabulary.decode(list(tokens[:-1])) for tokens in large} <= known
    assert drawn(16, 1) != large
    few = seqio.get_mixture_or_task("demo_questions_k8_s0")
    assert few.num_input_examples("validation") == superglue.SIZES["validation"]


@pytest.mark.slow
def test_shares_of_a_seed_are_inside_one_another_and_leave_the_held_out_rows():
    def inputs(name, split="train"):
        task = seqio.get_mixture_or_task(name)
        dataset = task.get_dataset({"inputs": 36, "targets": 6}, split=split, shuffle=False)
        found = {tuple(example["inputs"].tolist()) for example in dataset.as_numpy_iterator()}
        assert len(found) == task.num_input_examples(split)
        return found

    sizes, inside = {1: 37, 3: 111, 100: 3687}, set()
    for percent, size in sizes.items():
        share = inputs(f"demo_questions_p{percent}_s4")
        assert len(share) == size and inside < share
        inside = share
    held_out = inputs("demo_questions_p1_s4", "heldout")
    assert len(held_out) == 409 and held_out.isdisjoint(share)
    assert share | held_out == inputs("demo_questions")
    assert inputs("demo_questions_k8_s4") < share
    assert inputs("demo_questions_k8_s4", "heldout") == held_out
    assert inputs("demo_questions_p1_s3") != inputs("demo_questions_p1_s4")


@pytest.mark.slow
def test_the_mixture_draws_from_every_task():
    mixture = seqio.get_mixture_or_task(MIXTURE)
    dataset = mixture.get_dataset(
        {"inputs": 36, "targets": 6}, split="train", shuffle=False, num_epochs=1
    )
    vocabulary = mixture.output_features["targets"].vocabulary
    examples = dataset.take(60).as_numpy_iterator()
    answers = {vocabulary.decode(example["targets"][:-1].tolist()) for example in examples}
    assert answers == {word for words in superglue.LABEL_WORDS.values() for word in words}


def test_registering_twice_is_harmless():
    before = set(seqio.TaskRegistry.names())
    tasks.register()
    assert set(seqio.TaskRegistry.names()) == before


def test_accuracy_is_exact_match_of_the_whole_answer():
    task = seqio.get_mixture_or_task(TASKS[0])
    assert task.metric_fns == [tasks.accuracy]
    answers = [task.postprocess_fn(text) for text in (" open ", "open open", "refuted", "")]
    assert tasks.accuracy(["open"] * 4, answers) == {"accuracy": 0.25}


def test_the_package_is_light_until_the_tasks_are_asked_for():
    script = "import sys, dpt_jax.demo; assert not {'tensorflow', 'seqio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
