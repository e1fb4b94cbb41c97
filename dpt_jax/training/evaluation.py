"""Evaluation with a SeqIO task's own postprocessor and metrics."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dpt_jax.errors import InputError
from dpt_jax.files import atomic_write
from dpt_jax.models import Transformer, decoding
from dpt_jax.training import partitioning
from dpt_jax.training.data import TaskExamples, evaluation_batches, pad, round_up
from dpt_jax.training.state import Params


@dataclasses.dataclass
class TaskResult:
    """What evaluating one task gives.

    Attributes:
      task: the task's name.
      metrics: the task's metrics by name.
      predictions: one JSON-ready record an example, with `inputs`, `target`, `prediction`.
    """

    task: str
    metrics: dict[str, float]
    predictions: list[dict[str, Any]]


class Evaluator:
    """Evaluates parameters on loaded tasks; compiled programs and batches are kept between calls.

    Attributes:
      model: the network.
      providers: SeqIO tasks by name, for their postprocessors and metrics.
      examples: the loaded split of each task.
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
    ):
        self.model = model
        self.providers = providers
        self.examples = list(examples)
        self._vocabulary = vocabulary
        self._mesh = mesh
        self._batch_size = batch_size
        self._num_buckets = num_buckets
        self._generate = jax.jit(generator(model, max_decode_length, beam_size))
        self._score = jax.jit(functools.partial(decoding.score_targets, model))
        for task in self.examples:
            provider = providers[task.name]
            if not (provider.predict_metric_fns or provider.score_metric_fns):
                raise InputError(
                    f"Task {task.name!r} has no metric_fns, so there is nothing to evaluate. Give "
                    "it some, or train without evaluation: --gin.EVAL_PERIOD=0."
                )

    def __call__(self, params: Params) -> list[TaskResult]:
        """Metrics and predictions of every task under `params` (all of them, merged)."""
        return [self._evaluate_task(task, params) for task in self.examples]

    def _evaluate_task(self, task: TaskExamples, params: Params) -> TaskResult:
        provider = self.providers[task.name]
        targets = [
            provider.postprocess_fn(self._target_text(row), example=row, is_target=True)
            for row in task.rows
        ]
        metrics: dict[str, Any] = {}
        records: list[dict[str, Any]] = [
            {"inputs": self._text(row, "inputs"), "target": target}
            for row, target in zip(task.rows, targets, strict=True)
        ]
        if provider.predict_metric_fns:
            outputs = self._predict(task, params)
            predictions = [
                provider.postprocess_fn(text, example=row, is_target=False)
                for text, row in zip(outputs, task.rows, strict=True)
            ]
            for fn in provider.predict_metric_fns:
                metrics |= fn(targets, predictions)
            for record, output, prediction in zip(records, outputs, predictions, strict=True):
                record |= {"output": output, "prediction": prediction}
        if provider.score_metric_fns:
            scores = self._score_targets(task, params)
            for fn in provider.score_metric_fns:
                metrics |= fn(targets, scores)
            for record, score in zip(records, scores, strict=True):
                record["score"] = float(score)
        return TaskResult(task.name, {k: float(_scalar(v)) for k, v in metrics.items()}, records)

    def _predict(self, task: TaskExamples, params: Params) -> list[str]:
        outputs: list[str] = [""] * len(task.inputs)
        for indices, tokens in self._batches(task):
            with partitioning.activate(self._mesh):
                batch = partitioning.put_batch({"tokens": tokens}, self._mesh)
                generated = np.asarray(self._generate(params, batch["tokens"]))
            for i, row in zip(indices, generated, strict=False):
                outputs[i] = decode_text(self._vocabulary, row)
        return outputs

    def _score_targets(self, task: TaskExamples, params: Params) -> np.ndarray:
        scores = np.zeros(len(task.inputs), np.float32)
        length = round_up(max(len(x) for x in task.targets), 8)
        for indices, tokens in self._batches(task):
            targets = pad([task.targets[i] for i in indices], self._batch_size, length)
            with partitioning.activate(self._mesh):
                batch = partitioning.put_batch({"x": tokens, "y": targets}, self._mesh)
                found = np.asarray(self._score(params, batch["x"], batch["y"]))
            scores[indices] = found[: len(indices)]
        return scores

    def _batches(self, task: TaskExamples):
        return evaluation_batches(task.inputs, self._batch_size, self._num_buckets)

    def _text(self, row: Mapping[str, Any], feature: str) -> str:
        text = row.get(f"{feature}_pretokenized")
        if text is None:
            return decode_text(self._vocabulary, row[feature])
        return text.decode() if isinstance(text, bytes) else str(text)

    def _target_text(self, row: Mapping[str, Any]) -> str:
        return self._text(row, "targets")


def generator(model: Transformer, max_decode_length: int, beam_size: int = 1):
    """Returns `generate(params, encoder_input_tokens) -> tokens [batch, max_decode_length]`."""
    if beam_size == 1:
        return functools.partial(decoding.greedy_decode, model, max_decode_length=max_decode_length)

    def best_beam(params, encoder_input_tokens):
        tokens, _ = decoding.beam_search(
            model, params, encoder_input_tokens, max_decode_length, beam_size
        )
        return tokens[:, 0]

    return best_beam


def decode_text(vocabulary: Any, tokens: Iterable[int]) -> str:
    """Text of generated tokens, up to EOS."""
    return vocabulary.decode([int(t) for t in tokens])


def _scalar(value: Any) -> Any:
    # SeqIO metrics may be wrapped (seqio.metrics.Scalar).
    return getattr(value, "value", value)


def mean_metric(results: Sequence[TaskResult], name: str | None = None) -> float:
    """The number by which prompts are compared: a metric, averaged over the tasks.

    Args:
      results: what an `Evaluator` returned.
      name: the metric; None takes each task's first.

    Raises:
      InputError: when a task has no metric of that name.
    """
    values = []
    for result in results:
        if name is not None and name not in result.metrics:
            raise InputError(
                f"Task {result.task!r} has no metric {name!r}; it has "
                f"{', '.join(result.metrics)}. Change RunConfig.best_metric."
            )
        values.append(result.metrics[name] if name else next(iter(result.metrics.values())))
    return sum(values) / len(values)


def write_predictions(result: TaskResult, path: str | pathlib.Path) -> None:
    """Writes the predictions as JSON lines, atomically."""
    with atomic_write(path) as temporary, open(temporary, "w") as f:
        for record in result.predictions:
            f.write(json.dumps(record, default=str) + "\n")
