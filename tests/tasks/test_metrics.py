"""Metrics against values worked by hand, scikit-learn, and the examples in T5's library."""

import numpy as np
import pytest

pytest.importorskip("seqio", reason="SeqIO is not installed")

from dpt_jax.tasks import TaskError, metrics, postprocessors, superglue_average
from dpt_jax.tasks.benchmark import BENCHMARKS


def test_accuracy_counts_what_is_no_label_as_wrong_and_says_how_many():
    assert metrics.accuracy([0, 1, 1, 0], [0, 1, 0, -1]) == {"accuracy": 50.0, "invalid": 1}


def test_cbs_f1_is_the_mean_over_its_classes():
    # The example of T5's library.
    found = metrics.mean_class_f1(3)([0, 1, 1, 2], [0, 0, 2, 2])
    assert found == {"mean_3class_f1": pytest.approx(100 * (2 / 3 + 0 + 2 / 3) / 3)}


def test_cbs_f1_with_outputs_that_are_no_label():
    # Class 0: precision 1, recall 1/2; class 1: all right; class 2: none found.
    found = metrics.mean_class_f1(3)([0, 0, 1, 2], [0, -1, 1, -1])
    assert found == {"mean_3class_f1": pytest.approx(100 * (2 / 3 + 1 + 0) / 3)}


def test_cbs_f1_agrees_with_precision_and_recall_on_random_labels():
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(0)
    targets, said = rng.integers(0, 3, 200), rng.integers(-1, 3, 200)
    f1 = precision_recall_fscore_support(targets, said, labels=[0, 1, 2])[2]
    found = metrics.mean_class_f1(3)(targets.tolist(), said.tolist())
    assert found["mean_3class_f1"] == pytest.approx(100 * f1.mean())


def multirc(targets, said):
    groups = [{"value": value, "group": (0, group)} for group, value in targets]
    values = [{"value": value} for value in said]
    return metrics.answer_options_f1(groups, values) | metrics.question_exact_match(groups, values)


def test_multirc_as_in_t5s_library():
    assert multirc([("a", 1), ("a", 1), ("b", 0)], [1, 0, 1]) == {
        "f1": 50.0,
        "exact_match": 0.0,
        "invalid": 0,
    }


def test_multircs_exact_match_needs_all_options_of_a_question():
    found = multirc([("a", 1), ("b", 0), ("a", 0), ("b", 1), ("c", 1)], [1, 0, 0, 0, 1])
    # Two true positives and one miss; questions a and c.
    assert found == {
        "f1": pytest.approx(80.0),
        "exact_match": pytest.approx(200 / 3),
        "invalid": 0,
    }


def test_multircs_invalid_outputs_are_the_wrong_answer():
    # The example of T5's library: one hit, one miss, one false alarm.
    found = multirc([("a", 0), ("b", 1), ("c", 1), ("d", 0)], [0, 1, -1, -1])
    assert found == {"f1": 50.0, "exact_match": 50.0, "invalid": 2}


def record(pairs):
    targets = [{"value": answers, "group": (i, 0)} for i, (answers, _) in enumerate(pairs)]
    said = [{"value": text, "valid": False} for _, text in pairs]
    return metrics.best_answer(targets, said)


def test_record_as_in_t5s_library():
    pairs = [
        (["big moose", "hippo"], "‘a big  Moose!‘"),
        (["correct1"], "wrong"),
        (["correct2.1", "correct2.2"], "correct2.2"),
        (["a", "b"], "c"),
    ]
    found = record(pairs)
    assert (found["em"], found["f1"]) == (25.0, 35.0)
    found = record([(["abc abd", "$$$$"], "abd")])
    assert (found["em"], found["f1"]) == (0.0, pytest.approx(200 / 3))


def test_record_takes_the_best_answer_after_squads_normalization():
    assert record([(["Rome", "The U.S."], "the  us!")]) == {"f1": 100.0, "em": 100.0, "invalid": 1}


def test_record_counts_a_query_once():
    target = {"value": ["a b"], "group": (1, 2)}
    said = [{"value": "a b", "valid": True}, {"value": "x", "valid": False}]
    assert metrics.best_answer([target, target], said) == {"f1": 100.0, "em": 100.0, "invalid": 0}


@pytest.mark.parametrize(
    "said, noun, same",
    [
        # The examples of T5's library.
        ("potato", "turnip", False),
        ("turnip", "turnip", True),
        ("the cat", "cat", True),
        ("Bob's hat", "Bob", False),
        ("Bob's hat", "Bob's hat", True),
        ("potato", "Potato", True),
        ("a potato", "my potato", True),
        ("fuzzy bunny", "fuzzy hungry bunny", True),
        ("", "cat", None),
        ("a this", "cat", None),
        # The shorter's words are among the longer's, in whatever order, or they are not.
        ("hungry fuzzy bunny", "bunny", True),
        ("fuzzy dog", "fuzzy hungry bunny", False),
        ("Bob", "Bob's hat", False),
    ],
)
def test_nouns_are_the_same_but_for_determiners(said, noun, same):
    assert metrics.same_noun(said, noun) is same
    example = {"targets_pretokenized": noun.encode(), "label": np.int32(0)}
    expected = -1 if same is None else int(same)
    assert postprocessors.is_noun(said, example=example, is_target=False) == expected
    assert postprocessors.is_noun(noun, example=example, is_target=True) == 0


def test_only_the_exact_word_is_a_class():
    postprocess = postprocessors.class_of(("entailment", "not_entailment"))
    assert [postprocess(text) for text in ("not_entailment", "entailment", "Entailment", "")] == [
        1,
        0,
        -1,
        -1,
    ]
    assert postprocess("anything", example={"label": np.int32(1)}, is_target=True) == 1


def test_an_output_beside_the_entities_is_invalid():
    example = {"candidates": np.array([b"Ann Lee", b"The Hague"], object), "answers": [b"Ann Lee"]}
    said = [postprocessors.answer(t, example=example) for t in ("hague", "Ann", "ann lee.")]
    assert [one["valid"] for one in said] == [True, False, True]
    example["idx"] = np.array([3, 4], np.int32)
    target = postprocessors.answer("Ann Lee", example=example, is_target=True)
    assert target == {"value": ["Ann Lee"], "group": (3, 4)}


def test_rows_without_labels_cannot_be_scored():
    with pytest.raises(TaskError, match="1 of 2 rows have no label.*use validation"):
        metrics.accuracy([0, -1], [0, 0])
    with pytest.raises(TaskError, match="no answer.*use validation"):
        record([([], "x")])


def results(**changes):
    scores = {name: {"accuracy": 50.0, "invalid": 0.0} for name in BENCHMARKS}
    scores["cb"]["mean_3class_f1"] = 7.0
    scores["multirc"] = {"f1": 60.0, "exact_match": 10.0}
    scores["record"] = {"f1": 80.0, "em": 70.0}
    return scores | changes


def test_the_average_takes_accuracy_or_f1_of_the_eight():
    expected = (6 * 50 + 60 + 80) / 8
    assert superglue_average(results()) == pytest.approx(expected)
    for suffix in ("", "_digits", "_k8_s0", "_digits_k32_s12"):
        named = {f"dpt_{name}{suffix}": value for name, value in results().items()}
        assert superglue_average(named) == pytest.approx(expected)


def test_the_average_needs_each_of_the_eight_once():
    lacking = results()
    del lacking["rte"], lacking["wic"]
    with pytest.raises(TaskError, match="lacks rte, wic"):
        superglue_average(lacking)
    with pytest.raises(TaskError, match="two results for 'rte'"):
        superglue_average(results() | {"dpt_rte_digits": {"accuracy": 1.0}})
    with pytest.raises(TaskError, match="'mnli' is none of"):
        superglue_average(results(mnli={"accuracy": 1.0}))
    with pytest.raises(TaskError, match="'record' has no 'f1' but accuracy"):
        superglue_average(results(record={"accuracy": 1.0}))
