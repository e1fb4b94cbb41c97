"""A SeqIO task's metrics: what they need of a model, and what they say of its answers.

Metrics are functions of targets and predictions, scores, or predictions with auxiliary values, or
`seqio.metrics.Metric` objects over the same; all that T5X's own evaluation takes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dpt_jax.data.batches import pad
from dpt_jax.data.tasks import import_seqio
from dpt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says to the rows of a task; None where its metrics do not ask.

    Attributes:
      texts: the answer to each row.
      tokens: their token ids.
      logprobs: of each answer, what T5X's decoding gives for its score: its log-probability, of
        beams over the brevity penalty.
      target_scores: the log-probability of each row's target.
      candidates: the answers that each row admits, where the texts are chosen from them.
      candidate_scores: their log-probabilities.
    """

    texts: Sequence[str] | None = None
    tokens: Sequence[np.ndarray] | None = None
    logprobs: np.ndarray | None = None
    target_scores: np.ndarray | None = None
    candidates: Sequence[Sequence[str]] | None = None
    candidate_scores: Sequence[np.ndarray] | None = None


class Metrics(Protocol):
    """What an `Evaluator` asks of a task's metrics; `TaskMetrics` explains the names."""

    needs_answers: bool
    needs_logprobs: bool
    needs_scores: bool

    def __call__(
        self,
        rows: Sequence[Mapping[str, Any]],
        targets: Sequence[Any],
        predictions: Sequence[Any] | None,
        answers: Answers,
    ) -> Mapping[str, Any]: ...


class TaskMetrics:
    """The metrics of one task.

    Attributes:
      needs_answers: whether any asks what the model answers.
      needs_logprobs: whether any asks how probable that is (`aux_values`).
      needs_scores: whether any asks how probable the targets are.
    """

    def __init__(self, task: Any):
        """Finds out what the metrics need.

        Raises:
          InputError: when the task has none, or one that T5X's evaluation has nothing for.
        """
        self._task = task
        kind = import_seqio().metrics.ModelOutputType
        try:
            metrics = list(task.metric_objs)
        except ValueError as e:
            raise InputError(f"Task {task.name!r} cannot be evaluated: {e}") from e
        if not metrics:
            raise InputError(
                f"Task {task.name!r} has no metric_fns and no metric_objs, so there is nothing to "
                "evaluate. Give it some, or train without evaluation: --gin.EVAL_PERIOD=0."
            )
        # SeqIO wraps the functions and puts them at the end.
        self._objects = metrics[: len(metrics) - len(task.metric_fns)]
        self._kinds = kind
        asked = {getattr(metric, "model_output_type", None) for metric in metrics}
        for unknown in asked - {kind.PREDICTION, kind.PREDICTION_WITH_AUX, kind.SCORE}:
            named = "no model_output_type" if unknown is None else kind(unknown).name
            raise InputError(
                f"Task {task.name!r} has a metric over {named}; there are PREDICTION, "
                "PREDICTION_WITH_AUX and SCORE. Take it out of the task, or train without "
                "evaluation: --gin.EVAL_PERIOD=0."
            )
        self.needs_logprobs = kind.PREDICTION_WITH_AUX in asked
        self.needs_answers = self.needs_logprobs or kind.PREDICTION in asked
        self.needs_scores = kind.SCORE in asked

    def __call__(
        self,
        rows: Sequence[Mapping[str, Any]],
        targets: Sequence[Any],
        predictions: Sequence[Any] | None,
        answers: Answers,
    ) -> dict[str, Any]:
        """Numbers and `seqio.metrics.MetricValue`s by name.

        Args:
          rows: the task's examples.
          targets: the postprocessed target of each.
          predictions: the postprocessed answer to each.
          answers: what the model said.

        Raises:
          InputError: when two metrics have one name.
        """
        task, found = self._task, dict[str, Any]()
        aux = {"scores": answers.logprobs}
        said = [fn(targets, predictions) for fn in task.predict_metric_fns]
        said += [fn(targets, answers.target_scores) for fn in task.score_metric_fns]
        said += [fn(targets, predictions, aux) for fn in task.predict_with_aux_metric_fns]
        said += [self._ask_object(metric, rows, answers) for metric in self._objects]
        for metrics in said:
            if twice := sorted(found.keys() & metrics.keys()):
                raise InputError(
                    f"Task {task.name!r} has two metrics {twice[0]!r}; one of them would be lost. "
                    "Rename it in the task."
                )
            found |= metrics
        return found

    def _ask_object(
        self, metric: Any, rows: Sequence[Mapping[str, Any]], answers: Answers
    ) -> Mapping[str, Any]:
        """As `seqio.Evaluator` does, with the answers' tokens as one padded array."""
        kind, features = metric.model_output_type, self._task.output_features
        output: Any = answers.target_scores
        if kind != self._kinds.SCORE:
            tokens = list(answers.tokens or ())
            output = pad(tokens, len(tokens), max(map(len, tokens), default=0))
        if kind == self._kinds.PREDICTION_WITH_AUX:
            output = output, {"scores": answers.logprobs}
        made = metric.from_model_output(rows, output, features, "targets")
        if isinstance(made, import_seqio().metrics.CollectingMetric):
            return made.actual_compute(rows, features, "targets")[0]
        return made.compute()
