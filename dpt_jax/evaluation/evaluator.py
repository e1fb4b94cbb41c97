"""Evaluation with a task's own postprocessor and metrics."""

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpt_jax.data.batches import evaluation_batches, pad, round_up
from dpt_jax.data.examples import TaskExamples
from dpt_jax.data.text_tasks import TextTask
from dpt_jax.devices import agreement, partitioning
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.evaluation import rank_classification, summaries
from dpt_jax.evaluation.generation import Generator
from dpt_jax.evaluation.metrics import Answers, Metrics, TaskMetrics
from dpt_jax.evaluation.text_metrics import TextMetrics
from dpt_jax.models import Transformer, decoding
from dpt_jax.training.problem import Evaluation, TaskResult
from dpt_jax.training.state import Params

# Of `decoding.beam_search`.
LENGTH_PENALTY = 0.6


class Evaluator:
    """Evaluates parameters on loaded tasks; compiled programs and batches are kept between calls.

    Attributes:
      model: the network.
      providers: tasks by name, for their postprocessors and metrics.
      examples: the loaded split of each task.
      scoring: how a row is answered: by `generation`, or by `rank`, which takes the most probable
        of the row's `candidates`; the task's postprocessor and metrics see its text either way.
    """

    def __init__(
        self,
        model: Transformer,
        providers: Mapping[str, Any],
        examples: Sequence[TaskExamples],
        vocabulary: Any,
        *,
        mesh: Mesh,
        batch_size: int,
        num_buckets: int,
        max_decode_length: int,
        beam_size: int = 1,
        scoring: str = "generation",
        metrics: Mapping[str, Metrics] | None = None,
    ):
        """Takes what to evaluate on.

        Args:
          model: the network.
          providers: see above.
          examples: see above.
          vocabulary: turns tokens into text.
          mesh: the devices.
          batch_size: rows decoded at once.
          num_buckets: padded source lengths at most.
          max_decode_length: tokens of an answer at most.
          beam_size: beams of decoding; 1 is greedy.
          scoring: see above.
          metrics: of each task, by its name; None takes the tasks' own.
        """
        self.model = model
        self.providers = providers
        self.examples = list(examples)
        self.scoring = scoring
        self._vocabulary = vocabulary
        self._mesh = mesh
        self._batch_size = batch_size
        self._num_buckets = num_buckets
        self._generate = Generator(model, mesh, max_decode_length, beam_size)
        self._score_batch = rank_classification.scorer(model, mesh)
        self._beam_size = beam_size
        self._candidates: dict[str, rank_classification.Candidates] = {}
        self._metrics: Mapping[str, Metrics] = metrics or {
            task.name: metrics_of(providers[task.name]) for task in self.examples
        }
        self._said_left_out: set[tuple[str, str]] = set()
        for task in self.examples:
            if scoring == "rank" and self._metrics[task.name].needs_answers:
                self._candidates[task.name] = rank_classification.read_candidates(
                    task, providers[task.name].output_features["targets"]
                )

    def __call__(self, params: Params, scored: bool = True) -> list[TaskResult]:
        """Metrics and predictions of every task under `params` (all of them, merged).

        Of several processes the first one computes the metrics and has the predictions; the others
        are told the metrics.

        Args:
          params: the parameters.
          scored: whether the tasks' metrics are asked; a split without labels has answers alone.
        """
        answers = [self._ask(task, params) for task in self.examples]
        results: list[TaskResult] = []
        if agreement.is_first():
            pairs = zip(self.examples, answers, strict=True)
            results = [self._judge(task, answer, scored) for task, answer in pairs]
        metrics = agreement.broadcast_from_first([result.metrics for result in results])
        return results or [
            TaskResult(task.name, found) for task, found in zip(self.examples, metrics, strict=True)
        ]

    def _ask(self, task: TaskExamples, params: Params) -> Answers:
        """What the model says, as far as the task's metrics ask for it."""
        metrics, answers = self._metrics[task.name], Answers()
        if metrics.needs_answers and self.scoring == "rank":
            answers = self._rank(task, params)
        elif metrics.needs_answers:
            tokens = self._predict(task, params)
            logprobs = self._score_answers(task, params, tokens) if metrics.needs_logprobs else None
            texts = [decode_text(self._vocabulary, row) for row in tokens]
            answers = Answers(texts, tokens, logprobs)
        if metrics.needs_scores:
            scores = self._score(task, params, task.targets)
            answers = dataclasses.replace(answers, target_scores=scores)
        return answers

    def _judge(self, task: TaskExamples, answers: Answers, scored: bool) -> TaskResult:
        targets, predictions = self._targets(task), self._predictions(task, answers.texts)
        metrics: Mapping[str, Any] = {}
        if scored:
            metrics = self._metrics[task.name](task.rows, targets, predictions, answers)
        records: list[dict[str, Any]] = [
            ({"idx": row["idx"]} if "idx" in row else {})
            | {"inputs": self._text(row, "inputs"), "target": target}
            for row, target in zip(task.rows, targets, strict=True)
        ]
        of_rows = {
            "candidates": answers.candidates,
            "scores": answers.candidate_scores,
            "output": answers.texts,
            "prediction": predictions,
            "aux_scores": answers.logprobs,
            "score": answers.target_scores,
        }
        for name, values in of_rows.items():
            for record, value in zip(records, values if values is not None else (), strict=False):
                record[name] = value
        return self._result(task.name, metrics, records)

    def _result(
        self, task: str, metrics: Mapping[str, Any], records: list[dict[str, Any]]
    ) -> TaskResult:
        """A result; what of the metrics can be neither compared nor shown is said once."""
        numbers, shown, left_out = summaries.told_apart(metrics)
        for name, why in left_out.items():
            if (task, name) not in self._said_left_out:
                self._said_left_out.add((task, name))
                logging.warning("The metric %s of %s is left out: %s", name, task, why)
        return TaskResult(task, numbers, records, shown)

    def _targets(self, task: TaskExamples) -> list[Any]:
        postprocess = self.providers[task.name].postprocess_fn
        return [
            postprocess(self._text(row, "targets"), example=row, is_target=True)
            for row in task.rows
        ]

    def _predictions(self, task: TaskExamples, texts: Sequence[str] | None) -> list[Any] | None:
        if texts is None:
            return None
        postprocess = self.providers[task.name].postprocess_fn
        return [
            postprocess(text, example=row, is_target=False)
            for text, row in zip(texts, task.rows, strict=True)
        ]

    def check_metrics(self, best_metric: str | None = None) -> None:
        """Asks the tasks' metrics what they say of outputs that are the targets.

        So a split without labels, or a metric that does not exist, is found before the model runs.
        Where a function fails in another way nothing is concluded: it may suit other outputs.

        Args:
          best_metric: a metric that every task must have, as in `best_value`.

        Raises:
          InputError: when a task refuses its own targets, or has no such metric.
        """
        results = []
        for task in self.examples:
            try:
                texts = [self._text(row, "targets") for row in task.rows]
                nothing = np.zeros(len(texts), np.float32)
                perfect = Answers(texts, task.targets, nothing, nothing)
                predictions = self._predictions(task, texts)
                metrics = self._metrics[task.name](
                    task.rows, self._targets(task), predictions, perfect
                )
                results.append(self._result(task.name, metrics, []))
            except InputError:
                raise
            except Exception as e:
                # A ValueError of the task's own making is a refusal.
                if isinstance(e, ValueError) and type(e).__module__ != "builtins":
                    raise InputError(f"Task {task.name!r} cannot be evaluated: {e}") from e
                logging.info("The metrics of %s cannot be tried beforehand: %s", task.name, e)
                return
        if best_metric is not None:
            best_value(results, best_metric)

    def _predict(self, task: TaskExamples, params: Params) -> list[np.ndarray]:
        """The tokens generated for each row."""
        outputs: list[np.ndarray] = [np.zeros(0, np.int32)] * len(task.inputs)
        for indices, tokens in self._batches(task):
            with partitioning.activate(self._mesh):
                batch = partitioning.put_whole_batch({"tokens": tokens}, self._mesh)
                generated = np.asarray(self._generate(params, batch["tokens"]))
            for i, row in zip(indices, generated, strict=False):
                outputs[i] = row
        return outputs

    def _rank(self, task: TaskExamples, params: Params) -> Answers:
        """The most probable of each row's candidates, and the scores of all."""
        candidates = self._candidates[task.name]
        tokens = candidates.tokens
        scores = rank_classification.score_candidates(
            functools.partial(self._score_batch, params),
            task.inputs,
            tokens,
            mesh=self._mesh,
            batch_size=self._batch_size,
            num_buckets=self._num_buckets,
        )
        best = [int(np.argmax(row)) for row in scores]
        return Answers(
            [row[i] for row, i in zip(candidates.texts, best, strict=True)],
            [row[i] for row, i in zip(tokens, best, strict=True)],
            np.asarray([row[i] for row, i in zip(scores, best, strict=True)], np.float32),
            candidates=candidates.texts,
            candidate_scores=scores,
        )

    def _score_answers(
        self, task: TaskExamples, params: Params, answers: Sequence[np.ndarray]
    ) -> np.ndarray:
        """The log-probability of what was generated; of beams, over the brevity penalty."""
        ended = [np.trim_zeros(row, "b") for row in answers]
        scores = self._score(task, params, ended)
        if self._beam_size > 1:
            penalties = [decoding.brevity_penalty(len(row), LENGTH_PENALTY) for row in ended]
            scores = scores / np.asarray(penalties, np.float32)
        return scores

    def _score(
        self, task: TaskExamples, params: Params, outputs: Sequence[np.ndarray]
    ) -> np.ndarray:
        """The log-probability of an output to each row."""
        scores = np.zeros(len(task.inputs), np.float32)
        length = round_up(max(1, *map(len, outputs)), 8)
        for indices, tokens in self._batches(task):
            targets = pad([outputs[i] for i in indices], self._batch_size, length)
            with partitioning.activate(self._mesh):
                batch = partitioning.put_whole_batch({"x": tokens, "y": targets}, self._mesh)
                found = np.asarray(self._score_batch(params, batch["x"], batch["y"]))
            scores[indices] = found[: len(indices)]
        return scores

    def _batches(self, task: TaskExamples):
        return evaluation_batches(task.inputs, self._batch_size, self._num_buckets)

    def _text(self, row: Mapping[str, Any], feature: str) -> str:
        text = row.get(f"{feature}_pretokenized")
        if text is None:
            return decode_text(self._vocabulary, row[feature])
        return text.decode() if isinstance(text, bytes) else str(text)


def metrics_of(task: Any) -> Metrics:
    """A task's own metrics.

    Raises:
      InputError: when it has none, or one that cannot be asked.
    """
    return TextMetrics(task.metric) if isinstance(task, TextTask) else TaskMetrics(task)


def decode_text(vocabulary: Any, tokens: Iterable[int]) -> str:
    """Text of generated tokens, up to EOS."""
    return vocabulary.decode([int(t) for t in tokens])


SUPERGLUE_AVERAGE = "superglue_average"


def summarized(results: Sequence[TaskResult], name: str, best_metric: str | None) -> Evaluation:
    """What an `Evaluator` returned, with the averages over its tasks under `name`."""
    value, overall = best_value(results, best_metric), averages(results)
    return Evaluation(value, [*results, *([TaskResult(name, overall)] if overall else [])])


def averages(results: Sequence[TaskResult]) -> dict[str, float]:
    """The averages over tasks that have a name: `superglue_average`, in percent.

    It is there when the results are those of the eight tasks of `dpt_jax.tasks`, in either text
    format and from whatever draw of rows.
    """
    if len(results) != 8 or not all(result.task.startswith("dpt_") for result in results):
        return {}
    from dpt_jax.tasks import TaskError, superglue_average

    try:
        return {SUPERGLUE_AVERAGE: superglue_average({r.task: r.metrics for r in results})}
    except TaskError:
        return {}  # Eight other tasks.


def best_value(results: Sequence[TaskResult], name: str | None = None) -> float:
    """The number by which prompts are compared.

    Args:
      results: what an `Evaluator` returned.
      name: a metric, averaged over the tasks, or `superglue_average`; None is the latter where the
        tasks are SuperGLUE's eight, and otherwise the average of each task's first number. It is
        NaN where a task has no number at all, but texts, say.

    Raises:
      InputError: when a task has no metric of that name.
    """
    named = averages(results)
    if name is None:
        name = next(iter(named), None)
    if name in named:
        return named[name]
    values = []
    for result in results:
        if name is not None and name not in result.metrics:
            known = [*result.metrics, *named]
            raise InputError(
                f"Task {result.task!r} has no metric {name!r}; it has {', '.join(known)}."
                f"{nearest_names(name, known)} Change --gin.BEST_METRIC."
            )
        values.append(
            result.metrics[name] if name else next(iter(result.metrics.values()), math.nan)
        )
    return sum(values) / len(values)
