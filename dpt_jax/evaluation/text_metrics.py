"""Metrics of answers as texts, by name or as any function, without SeqIO."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpt_jax.errors import InputError, nearest_names
from dpt_jax.evaluation.metrics import Answers

# (targets, predictions) -> a number, or numbers by name. The order is SeqIO's.
MetricFn = Callable[[Sequence[str], Sequence[str]], float | Mapping[str, float]]


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """The share of answers that are their target, white space at the ends left out, in 0 to 1."""
    pairs = list(zip(targets, predictions, strict=True))
    return sum(target.strip() == answer.strip() for target, answer in pairs) / len(pairs)


def token_f1(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """The mean F1 of the words that an answer shares with its target, in 0 to 1.

    Words are what white space parts. An answer without words has 1 where its target has none
    either, and otherwise 0.
    """
    scores = []
    for target, answer in zip(targets, predictions, strict=True):
        ours, theirs = answer.split(), target.split()
        shared = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
        total = len(ours) + len(theirs)
        scores.append(2 * shared / total if total else 1.0)
    return sum(scores) / len(scores)


METRICS: Mapping[str, MetricFn] = {"exact_match": exact_match, "token_f1": token_f1}


class TextMetrics:
    """What an `Evaluator` asks of the metrics of pairs: one function of targets and answers."""

    needs_answers, needs_logprobs, needs_scores = True, False, False

    def __init__(self, metric: str | MetricFn):
        """Takes a name of `METRICS`, or a function of `(targets, predictions)`.

        Raises:
          InputError: when there is no such metric.
        """
        if isinstance(metric, str):
            if metric not in METRICS:
                raise InputError(
                    f"There is no metric {metric!r}; there are {', '.join(METRICS)}."
                    f"{nearest_names(metric, METRICS)} Set metric= to one of them, or to a "
                    "function of (targets, predictions)."
                )
            self.name, self._function = metric, METRICS[metric]
        elif callable(metric):
            self.name, self._function = getattr(metric, "__name__", "metric"), metric
        else:
            raise InputError(
                f"metric is {metric!r}; it must be one of {', '.join(METRICS)}, or a function of "
                "(targets, predictions)."
            )

    def measure(self, targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        """Numbers by name.

        Raises:
          InputError: when the function gives no number.
        """
        found = self._function(targets, predictions)
        named = found if isinstance(found, Mapping) else {self.name: found}
        try:
            return {name: _number(value) for name, value in named.items()}
        except (TypeError, ValueError) as e:
            raise InputError(
                f"The metric {self.name} gives {found!r}; it must give a number, or numbers by "
                "name."
            ) from e

    def __call__(
        self,
        rows: Sequence[Mapping[str, Any]],
        targets: Sequence[Any],
        predictions: Sequence[Any] | None,
        answers: Answers,
    ) -> dict[str, float]:
        """See `TaskMetrics`."""
        del rows, answers
        return self.measure(targets, predictions or ())


def _number(value: Any) -> float:
    # Counts stay whole in the log.
    return int(value) if isinstance(value, numbers.Integral) else float(value)
