"""SuperGLUE's metrics, with SeqIO's signature `(targets, predictions) -> {name: number}`.

All but `invalid` are in percent, 0 to 100, as in the papers and in T5's library. `invalid` is the
number of outputs that are no answer at all (-1); they count as wrong everywhere.
"""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dpt_jax.tasks.benchmark import BENCHMARKS, benchmark_of
from dpt_jax.tasks.errors import TaskError

Metrics = dict[str, float]


def _labels(values: Sequence[Any], targets: bool = False) -> np.ndarray:
    labels = np.asarray([v["value"] if isinstance(v, Mapping) else v for v in values], int)
    if targets and (labels < 0).any():
        raise TaskError(
            f"{(labels < 0).sum()} of {len(labels)} rows have no label, as in SuperGLUE's test "
            "split, so no metric can be computed; use validation, or write the answers "
            "with dpt evaluate --submission=FILE.zip."
        )
    return labels


def accuracy(targets: Sequence[int], predictions: Sequence[int]) -> Metrics:
    """Accuracy in percent, and the number of invalid outputs.

    Args:
      targets: labels from 0.
      predictions: labels from 0, or -1 for an output that is none.
    """
    from sklearn.metrics import accuracy_score

    true, said = _labels(targets, True), _labels(predictions)
    return {"accuracy": 100 * float(accuracy_score(true, said)), "invalid": int((said < 0).sum())}


def mean_class_f1(num_classes: int) -> Callable[[Sequence[int], Sequence[int]], Metrics]:
    """Returns CB's second metric: F1 of each class, averaged without weights, in percent.

    A class that is neither in the targets nor in the predictions counts as 0, as in T5's library.
    """

    def mean_f1(targets: Sequence[int], predictions: Sequence[int]) -> Metrics:
        from sklearn.metrics import f1_score

        true, said = _labels(targets, True), _labels(predictions)
        classes = list(range(num_classes))
        mean = f1_score(true, said, labels=classes, average="macro", zero_division=0)
        return {f"mean_{num_classes}class_f1": 100 * float(mean)}

    return mean_f1


def answer_options_f1(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> Metrics:
    """MultiRC's F1 over all answer options, of the label 1, in percent; and the invalid outputs.

    Args:
      targets: `{"value": 0 or 1, ...}`.
      predictions: `{"value": 0, 1 or -1}`; -1 counts as the wrong one of the two.
    """
    from sklearn.metrics import f1_score

    true, said = _labels(targets, True), _labels(predictions)
    invalid = said < 0
    f1 = f1_score(true, np.where(invalid, 1 - true, said), zero_division=0)
    return {"f1": 100 * float(f1), "invalid": int(invalid.sum())}


def question_exact_match(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> Metrics:
    """MultiRC's exact match: questions with every answer option right, in percent of all.

    Args:
      targets: `{"value": 0 or 1, "group": which question}`.
      predictions: `{"value": 0, 1 or -1}`.
    """
    right: dict[Any, bool] = {}
    for target, same in zip(targets, _labels(targets, True) == _labels(predictions), strict=True):
        right[target["group"]] = right.get(target["group"], True) and bool(same)
    return {"exact_match": 100 * float(np.mean(list(right.values())))}


def best_answer(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> Metrics:
    """ReCoRD's token F1 and exact match (`em`) in percent, each the best over the listed answers.

    Of several predictions for the same query the first counts.

    Args:
      targets: `{"value": answers, "group": which query}`.
      predictions: `{"value": text, "valid": whether it is one of the passage's entities}`. What is
        not is counted as `invalid`; its F1 stays what SQuAD's metric says.
    """
    first: dict[Any, tuple[list[str], Mapping[str, Any]]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        if not target["value"]:
            raise TaskError(
                f"ReCoRD's query {target['group']} has no answer, as in SuperGLUE's test split, so "
                "no metric can be computed; use validation, or write the answers "
                "with dpt evaluate --submission=FILE.zip."
            )
        first.setdefault(target["group"], (target["value"], prediction))
    scores = []
    for answers, prediction in first.values():
        said = normalized_answer(prediction["value"])
        known = [normalized_answer(answer) for answer in answers]
        scores.append((max(token_f1(a, said) for a in known), max(a == said for a in known)))
    f1, em = 100 * np.mean(np.asarray(scores, float), axis=0)
    invalid = sum(not prediction["valid"] for _, prediction in first.values())
    return {"f1": float(f1), "em": float(em), "invalid": invalid}


def normalized_answer(text: str) -> str:
    """SQuAD's normalization: lower case, no ASCII punctuation, no articles, single spaces.

    Rajpurkar et al., EMNLP 2016, the official evaluation script.
    """
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(target: str, prediction: str) -> float:
    """F1, 0 to 1, of the bags of words of two normalized texts."""
    true, said = target.split(), prediction.split()
    common = sum((collections.Counter(true) & collections.Counter(said)).values())
    return 2 * common / (len(true) + len(said)) if common else 0.0


# The words that T5's library lets nouns differ in.
DETERMINERS = frozenset(
    "a an each every few her his many much my our some that the their these this those which whose "
    "your".split()
)


def same_noun(said: str, noun: str) -> bool | None:
    """Whether two nouns are the same but for determiners and case, as T5's library compares them.

    The words of one must be among the words of the other, and both or neither have an apostrophe
    (`Bob` is not `Bob's hat`).

    Args:
      said: the generated noun.
      noun: the noun that is asked about.

    Returns:
      Whether they are the same; None where nothing but determiners was said.
    """
    said, noun = _without_determiners(said), _without_determiners(noun)
    if not said:
        return None
    if ("'" in said) != ("'" in noun):
        return False
    ours, theirs = set(said.split(" ")), set(noun.split(" "))
    return ours <= theirs or theirs <= ours


def _without_determiners(text: str) -> str:
    return " ".join(w for w in text.strip().lower().split(" ") if w not in DETERMINERS)


def superglue_average(results: Mapping[str, Mapping[str, float]]) -> float:
    """The mean over the eight tasks, one number per task: accuracy, or F1 for MultiRC and ReCoRD.

    As the DPT paper averages them (Tables 1 and 2).

    Args:
      results: metrics by task, whatever the text format (`dpt_rte`, `dpt_rte_digits`) or few-shot
        draw (`dpt_rte_k8_s0`); `rte` will do.

    Raises:
      TaskError: when a task is missing, there twice, or lacks its metric.
    """
    numbers: dict[str, float] = {}
    for task, metrics in results.items():
        benchmark = benchmark_of(task)
        if benchmark is None:
            raise TaskError(f"{task!r} is none of SuperGLUE's tasks: {', '.join(BENCHMARKS)}.")
        name = benchmark.name
        if name in numbers:
            raise TaskError(f"There are two results for {name!r}; the average takes one per task.")
        metric = "f1" if name in ("multirc", "record") else "accuracy"
        if metric not in metrics:
            raise TaskError(f"The result of {task!r} has no {metric!r} but {', '.join(metrics)}.")
        numbers[name] = float(metrics[metric])
    if missing := [name for name in BENCHMARKS if name not in numbers]:
        raise TaskError(f"The average over SuperGLUE lacks {', '.join(missing)}.")
    return sum(numbers.values()) / len(numbers)
