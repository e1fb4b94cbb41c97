"""Tasks of texts against the same tasks in SeqIO's registry, and what is said of bad ones."""

import json
import sys

import numpy as np
import pytest
import sentencepiece

import dpt_jax
from dpt_jax.data import first_inputs, kept_vocabulary
from dpt_jax.data.examples import load_split
from dpt_jax.data.tasks import get_provider, parts
from dpt_jax.demo import BACKBONE_DIR, MIXTURE, VOCABULARY
from dpt_jax.demo import text_tasks as demo
from dpt_jax.errors import InputError
from dpt_jax.evaluation import rank_classification
from dpt_jax.evaluation.evaluator import metrics_of
from dpt_jax.evaluation.metrics import Answers
from dpt_jax.problems.text import prepare
from tests.support import runs

LENGTHS = {"inputs": 36, "targets": 6}
OF_TEXTS, OF_SEQIO = "dpt_jax.demo.text_tasks", "dpt_jax.demo.tasks"
TASKS = """
import json
import dpt_jax

def rows(split):
    for line in open(f"{folder}/{{split}}.jsonl"):
        row = json.loads(line)
        yield {{"inputs": row["question"], "targets": row["answer"], "candidates": ["yes", "no"]}}

TEXT_TASKS = [
    dpt_jax.TextTask("mine", rows),
    dpt_jax.TextTask("broken", lambda _: [{{"inputs": "a", "targets": "b"}}, {{"inputs": "a"}}]),
]
TEXT_TASKS.append(dpt_jax.TextMixture("both", TEXT_TASKS[:2], [2.0, 1.0]))
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """The name of a module with text tasks, which read two rows."""
    name = f"text_tasks_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(TASKS.format(folder=tmp_path))
    rows = [{"question": "is it red ?", "answer": "yes"}, {"question": "is it ?", "answer": "no"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("demo_entailment", "validation"),
        ("demo_questions_k8_s4", "train"),
        ("demo_questions_p1_s1", "heldout"),
        (MIXTURE, "validation"),
    ],
)
def test_a_task_of_texts_gives_what_seqio_gives(name, split):
    ours, theirs = get_provider(name, OF_TEXTS), get_provider(name, OF_SEQIO)
    loaded = [load_split(provider, split, LENGTHS) for provider in (ours, theirs)]
    for one, other in zip(*loaded, strict=True):
        assert one.name == other.name and len(one.rows) == len(other.rows) > 0
        for feature in ("inputs", "targets"):
            tokens = getattr(one, feature), getattr(other, feature)
            for mine, its in zip(*tokens, strict=True):
                np.testing.assert_array_equal(mine, its, strict=True)
            texts = [row[f"{feature}_pretokenized"].decode() for row in other.rows]
            assert [row[f"{feature}_pretokenized"] for row in one.rows] == texts
    rates = [{task.name: rate for task, rate in parts(provider)} for provider in (ours, theirs)]
    assert rates[0] == rates[1]
    kept = [kept_vocabulary.files_of(p.output_features["inputs"]) for p in (ours, theirs)]
    assert kept[0] == kept[1] and len(kept[0]) == 2


def test_the_same_names_splits_and_scores_as_in_seqio():
    seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")
    get_provider("demo_questions", OF_SEQIO)
    registered = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    assert {one.name for one in demo.TEXT_TASKS} == {n for n in registered if n[:5] == "demo_"}
    said, rows = [" open", "refuted", "no answer"], [{}] * 3
    for one in demo.TEXT_TASKS[:40]:
        other = seqio.TaskRegistry.get(one.name)
        assert tuple(one.splits) == tuple(other.splits)
        found = []
        for task in (one, other):
            answers = [task.postprocess_fn(text, example={}, is_target=False) for text in said]
            targets = ["open", "open", "no answer"]
            found.append(metrics_of(task)(rows, targets, answers, Answers(said)))
        assert found[0] == found[1] == {"accuracy": 2 / 3}


def prepared(tmp_path, module, name, **changes):
    changes = {"initial_checkpoint_path": str(BACKBONE_DIR), "batch_size": 2} | changes
    task = {"mixture_or_task_name": name, "mixture_or_task_module": module}
    return prepare(runs.run_config(tmp_path / "run", BACKBONE_DIR, **task | changes))


def test_rows_of_a_file_with_the_vocabulary_of_the_models_folder(module, tmp_path):
    made = prepared(tmp_path, module, "mine")
    pieces = sentencepiece.SentencePieceProcessor(str(VOCABULARY))
    expected = [[*pieces.EncodeAsIds(text), 1] for text in ("is it red ?", "is it ?")]
    (examples,) = made.data.tasks
    assert [row.tolist() for row in examples.inputs] == expected
    assert [row["inputs_pretokenized"] for row in examples.rows] == ["is it red ?", "is it ?"]
    assert [task.name for task, _ in parts(prepared(tmp_path, module, "both").task)] == [
        "mine",
        "broken",
    ]
    # What the rows bring besides is there to choose from.
    feature = made.task.output_features["targets"]
    found = rank_classification.read_candidates(examples, feature)
    assert found.texts == [["yes", "no"]] * 2
    assert found.tokens[0][0].tolist() == [*pieces.EncodeAsIds("yes"), 1]
    # The first inputs are read without the rest.
    first = first_inputs.of_provider(made.task, {"inputs": 3})
    np.testing.assert_array_equal(first, [ids[:3] for ids in expected])


def test_what_cannot_be_used_is_named(module, tmp_path):
    for name, changes, message in (
        ("broken", {}, "Row 1 of split 'train' of task 'broken' has no text 'targets', but is {'i"),
        ("mine", {"train_split": "test"}, "has no split 'test'; it has train, validation"),
        ("mine", {"train_split": "validation"}, "Split 'validation' of task 'mine': .*No such fil"),
        ("mine", {"initial_checkpoint_path": None}, "CHECKPOINT_PATH is None.*TextTask.vocabulary"),
        ("mine", {"initial_checkpoint_path": str(tmp_path)}, "no tokenizer.*TextTask.vocabulary"),
        ("min", {}, "There is no task or mixture 'min'. Nearest: mine"),
    ):
        with pytest.raises(InputError, match=message):
            _ = prepared(tmp_path, module, name, **changes).data
    half = dpt_jax.TextTask(
        "half",
        lambda split: [{"inputs": "a", "targets": "\ud83d"}],
        vocabulary=kept_vocabulary.Bytes(0, True),
    )
    with pytest.raises(InputError, match="Row 0 of split 'train' of task 'half' has half of a sur"):
        half.read("train")
    one = dpt_jax.TextTask("one", list, vocabulary=kept_vocabulary.Bytes(0, True))
    other = dpt_jax.TextTask("other", list, vocabulary=kept_vocabulary.Bytes(0, True))
    with pytest.raises(ValueError, match="'two' must have one vocabulary"):
        dpt_jax.TextMixture("two", [one, other], [1.0, 1.0])


def test_a_mixture_has_a_rate_for_each_of_its_tasks():
    one = dpt_jax.TextTask("one", lambda split: [])
    with pytest.raises(ValueError, match="'both' has 2 tasks and 1 rates"):
        dpt_jax.TextMixture("both", [one, one], [1.0])
