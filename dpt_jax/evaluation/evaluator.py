"""Evaluation with a SeqIO task's own postprocessor and metrics."""

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dpt_jax.data.batches import evaluation_batches, pad, round_up
from dpt_jax.data.examples import TaskExamples
from dpt_jax.devices import agreement, partitioning
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.evaluation import rank_classification
from dpt_jax.evaluation.generation import Generator
from dpt_jax.models import Transformer, decoding
from dpt_jax.training.problem import Evaluation, TaskResult
from dpt_jax.training.state import Params


class Evaluator:
    """Evaluates parameters on loaded tasks; compiled programs and batches are kept between calls.

    Attributes:
      model: the network.
      providers: SeqIO tasks by name, for their postprocessors and metrics.
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
    ):
        self.model = model
        self.providers = providers
        self.examples = list(examples)
        self.scoring = scoring
        self._vocabulary = vocabulary
        self._mesh = mesh
        self._batch_size = batch_size
        self._num_buckets = num_buckets
        self._generate = Generator(model, mesh, max_decode_length, beam_size)
        # To every process, as in `Generator`.
        self._score = jax.jit(
            functools.partial(decoding.score_targets, model),
            out_shardings=partitioning.replicated(mesh),
        )
        self._candidates: dict[str, rank_classification.Candidates] = {}
        for task in self.examples:
            provider = providers[task.name]
            if not (provider.predict_metric_fns or provider.score_metric_fns):
                raise InputError(
                    f"Task {task.name!r} has no metric_fns, so there is nothing to evaluate. Give "
                    "it some, or train without evaluation: --gin.EVAL_PERIOD=0."
                )
            if scoring == "rank" and provider.predict_metric_fns:
                self._candidates[task.name] = rank_classification.read_candidates(
                    task, provider.output_features["targets"]
                )

    def __call__(self, params: Params) -> list[TaskResult]:
        """Metrics and predictions of every task under `params` (all of them, merged).

        Of several processes the first one computes the metrics and has the predictions; the others
        are told the metrics.
        """
        answers = [self._ask(task, params) for task in self.examples]
        results: list[TaskResult] = []
        if agreement.is_first():
            pairs = zip(self.examples, answers, strict=True)
            results = [self._judge(task, *answer) for task, answer in pairs]
        metrics = agreement.broadcast_from_first([result.metrics for result in results])
        return results or [
            TaskResult(task.name, found, [])
            for task, found in zip(self.examples, metrics, strict=True)
        ]

    def _ask(self, task: TaskExamples, params: Params):
        """What the model says: outputs or the candidates' scores, and the targets' scores."""
        provider = self.providers[task.name]
        answers, scores = None, None
        if provider.predict_metric_fns:
            by_rank = self.scoring == "rank"
            answers = self._rank(task, params) if by_rank else self._predict(task, params)
        if provider.score_metric_fns:
            scores = self._score_targets(task, params)
        return answers, scores

    def _judge(self, task: TaskExamples, answers, scores) -> TaskResult:
        provider = self.providers[task.name]
        targets = self._targets(task)
        metrics: dict[str, Any] = {}
        records: list[dict[str, Any]] = [
            ({"idx": row["idx"]} if "idx" in row else {})
            | {"inputs": self._text(row, "inputs"), "target": target}
            for row, target in zip(task.rows, targets, strict=True)
        ]
        if answers is not None:
            if self.scoring == "rank":
                texts = self._candidates[task.name].texts
                outputs = [row[int(np.argmax(s))] for row, s in zip(texts, answers, strict=True)]
                for record, row, s in zip(records, texts, answers, strict=True):
                    record |= {"candidates": row, "scores": s}
            else:
                outputs = [decode_text(self._vocabulary, tokens) for tokens in answers]
            predictions = [
                provider.postprocess_fn(text, example=row, is_target=False)
                for text, row in zip(outputs, task.rows, strict=True)
            ]
            for fn in provider.predict_metric_fns:
                metrics |= fn(targets, predictions)
            for record, output, prediction in zip(records, outputs, predictions, strict=True):
                record |= {"output": output, "prediction": prediction}
        if scores is not None:
            for fn in provider.score_metric_fns:
                metrics |= fn(targets, scores)
            for record, score in zip(records, scores, strict=True):
                record["score"] = float(score)
        return TaskResult(task.name, _numbers(metrics), records)

    def _targets(self, task: TaskExamples) -> list[Any]:
        postprocess = self.providers[task.name].postprocess_fn
        return [
            postprocess(self._text(row, "targets"), example=row, is_target=True)
            for row in task.rows
        ]

    def check_metrics(self, best_metric: str | None = None) -> None:
        """Asks the tasks' metric functions what they say of outputs that are the targets.

        So a split without labels, or a metric that does not exist, is found before the model runs.
        Where a function fails in another way nothing is concluded: it may suit other outputs.

        Args:
          best_metric: a metric that every task must have, as in `best_value`.

        Raises:
          InputError: when a task refuses its own targets, or has no such metric.
        """
        results = []
        for task in self.examples:
            provider, metrics = self.providers[task.name], dict[str, Any]()
            try:
                targets = self._targets(task)
                outputs = [
                    provider.postprocess_fn(
                        self._text(row, "targets"), example=row, is_target=False
                    )
                    for row in task.rows
                ]
                for fn in provider.predict_metric_fns:
                    metrics |= fn(targets, outputs)
                for fn in provider.score_metric_fns:
                    metrics |= fn(targets, np.zeros(len(targets), np.float32))
                results.append(TaskResult(task.name, _numbers(metrics), []))
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
                batch = self._put({"tokens": tokens})
                generated = np.asarray(self._generate(params, batch["tokens"]))
            for i, row in zip(indices, generated, strict=False):
                outputs[i] = row
        return outputs

    def _rank(self, task: TaskExamples, params: Params) -> list[np.ndarray]:
        """The scores of each row's candidates."""
        tokens = self._candidates[task.name].tokens
        scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(tokens)
        batches = rank_classification.candidate_batches(
            task.inputs,
            tokens,
            batch_size=self._batch_size,
            num_buckets=self._num_buckets,
            shards=self._mesh.shape["data"] * self._mesh.shape["fsdp"],
        )
        for indices, inputs, candidates in batches:
            with partitioning.activate(self._mesh):
                batch = self._put({"x": inputs, "y": candidates})
                found = np.asarray(self._score(params, batch["x"], batch["y"]))
            for i, row in zip(indices, found, strict=False):
                scores[i] = row[: len(tokens[i])]
        return scores

    def _score_targets(self, task: TaskExamples, params: Params) -> np.ndarray:
        scores = np.zeros(len(task.inputs), np.float32)
        length = round_up(max(len(x) for x in task.targets), 8)
        for indices, tokens in self._batches(task):
            targets = pad([task.targets[i] for i in indices], self._batch_size, length)
            with partitioning.activate(self._mesh):
                batch = self._put({"x": tokens, "y": targets})
                found = np.asarray(self._score(params, batch["x"], batch["y"]))
            scores[indices] = found[: len(indices)]
        return scores

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        rows = partitioning.process_rows(self._mesh, len(next(iter(batch.values()))))
        return partitioning.put_batch({k: v[rows] for k, v in batch.items()}, self._mesh)

    def _batches(self, task: TaskExamples):
        return evaluation_batches(task.inputs, self._batch_size, self._num_buckets)

    def _text(self, row: Mapping[str, Any], feature: str) -> str:
        text = row.get(f"{feature}_pretokenized")
        if text is None:
            return decode_text(self._vocabulary, row[feature])
        return text.decode() if isinstance(text, bytes) else str(text)


def decode_text(vocabulary: Any, tokens: Iterable[int]) -> str:
    """Text of generated tokens, up to EOS."""
    return vocabulary.decode([int(t) for t in tokens])


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    # SeqIO metrics may be wrapped (seqio.metrics.Scalar).
    return {name: float(getattr(value, "value", value)) for name, value in metrics.items()}


SUPERGLUE_AVERAGE = "superglue_average"


def summarized(results: Sequence[TaskResult], name: str, best_metric: str | None) -> Evaluation:
    """What an `Evaluator` returned, with the averages over its tasks under `name`."""
    value, overall = best_value(results, best_metric), averages(results)
    return Evaluation(value, [*results, *([TaskResult(name, overall)] if overall else [])])


def averages(results: Sequence[TaskResult]) -> dict[str, float]:
    """The averages over tasks that have a name: `superglue_average`, in percent.

    It is there when the results are those of the eight tasks of `dpt_jax.tasks`, in either text
    format and from whatever few-shot draw.
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
        tasks are SuperGLUE's eight, and otherwise the average of each task's first metric.

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
        values.append(result.metrics[name] if name else next(iter(result.metrics.values())))
    return sum(values) / len(values)
