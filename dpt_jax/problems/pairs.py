"""A frozen T5 and pairs of texts: the problem of `problems.text` without SeqIO."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32

from dpt_jax.data import first_inputs
from dpt_jax.data.batches import TrainData
from dpt_jax.data.examples import TaskExamples, checksum
from dpt_jax.data.kept_vocabulary import KeptVocabulary
from dpt_jax.data.pairs import NAME, Pairs, examples_of
from dpt_jax.devices import partitioning
from dpt_jax.evaluation.evaluator import Evaluator
from dpt_jax.evaluation.text_metrics import TextMetrics
from dpt_jax.problems.text import Prepared
from dpt_jax.training.config import RunConfig


class _Plain:
    """What an `Evaluator` asks a SeqIO task for: answers and targets are taken as they are."""

    @staticmethod
    def postprocess_fn(text: str, **_: Any) -> str:
        return text


@dataclasses.dataclass(frozen=True)
class PairData:
    """What a run on pairs is made of, besides its configuration.

    Attributes:
      vocabulary: the model's.
      train: the tokenized training pairs.
      held_out: those to evaluate on; None where there is no evaluation.
      metrics: what evaluation measures.
      recipe: what the configuration's optimizer and schedule are, flat JSON; part of the run's
        identity, which gin would have told elsewhere.
    """

    vocabulary: KeptVocabulary
    train: TaskExamples
    held_out: TaskExamples | None
    metrics: TextMetrics
    recipe: Mapping[str, Any]


def prepare_pairs(
    base: Prepared,
    config: RunConfig,
    train: Pairs,
    held_out: Pairs | None,
    metrics: TextMetrics,
    recipe: Mapping[str, Any],
) -> "PreparedPairs":
    """Tokenizes pairs and prepares a run on them.

    Args:
      base: the model, with its vocabulary and its mesh.
      config: the run.
      train: the training pairs.
      held_out: the pairs to evaluate on; None where there is no evaluation.
      metrics: see `PairData`.
      recipe: see `PairData`.

    Raises:
      InputError: when texts are too long.
    """

    def tokenized(pairs: Pairs, what: str) -> TaskExamples:
        limits = config.task_feature_lengths, config.overlength
        return examples_of(pairs, base.vocabulary, *limits, what)

    evaluated = None if held_out is None else tokenized(held_out, "eval_pairs")
    data = PairData(base.vocabulary, tokenized(train, "pairs"), evaluated, metrics, recipe)
    return PreparedPairs(config, base.mesh, base.made, data)


class PreparedPairs(Prepared):
    """As `Prepared`, with pairs in the place of the SeqIO task.

    Attributes:
      pairs: the examples and their vocabulary.
    """

    def __init__(self, config: RunConfig, mesh: Any, made: dict[str, Any], pairs: PairData):
        super().__init__(config, mesh, made)
        self.pairs = pairs

    @functools.cached_property
    def vocabulary(self) -> KeptVocabulary:
        """The model's vocabulary."""
        return self.pairs.vocabulary

    @functools.cached_property
    def data(self) -> TrainData:
        """The training pairs in this configuration's own order."""
        config = self.config
        return TrainData.create(
            [self.pairs.train],
            [1.0],
            config.batch_size,
            config.random_seed,
            config.num_buckets,
            config.balanced_batches,
        )

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Evaluates `folded_model` on the held out pairs."""
        partitioning.check_batch("EVAL_BATCH_SIZE", self.config.decode_batch_size, self.mesh)
        assert self.pairs.held_out is not None  # Else the evaluation's period is 0.
        return self._evaluator_of({NAME: _Plain}, [self.pairs.held_out], {NAME: self.pairs.metrics})

    def _first_inputs(self) -> Int32[np.ndarray, "rows length"]:
        rows = self.pairs.train.inputs[: first_inputs.ROWS]
        return first_inputs.padded(rows, self.config.task_feature_lengths["inputs"])

    def _files(self) -> dict[str, Any]:
        return self.pairs.vocabulary.files()

    def _task_identity(self) -> dict[str, Any]:
        pairs, evaluated = self.pairs, {}
        if pairs.held_out is not None:
            # Best steps are compared by these.
            evaluated = {"held_out": checksum([pairs.held_out]), "metric": pairs.metrics.name}
        return {
            **super()._task_identity(),
            "pairs": checksum([pairs.train]),
            **evaluated,
            "trained_by": dict(pairs.recipe),
        }
