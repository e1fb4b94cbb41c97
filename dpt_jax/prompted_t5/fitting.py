"""The run that `PromptedT5.fit` trains, from its arguments."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dpt_jax.data.kept_vocabulary import KeptVocabulary
from dpt_jax.data.pairs import Pairs
from dpt_jax.data.text_tasks import tokenize
from dpt_jax.evaluation.text_metrics import TextMetrics
from dpt_jax.problems.pairs import PreparedPairs, prepare_pairs
from dpt_jax.problems.text import Prepared
from dpt_jax.prompted_t5.opening import positive
from dpt_jax.prompts import at_residual_norm
from dpt_jax.training import recipes
from dpt_jax.training.recipes import Optimizer, Rate

# Steps between checkpoints that nobody would go on from; the last step is saved in any case.
_NEVER = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How to train; the arguments of `PromptedT5.fit` under their names.

    Attributes:
      max_source_length: as `from_pretrained` was given it, and so `overlength`.
      kept: whether somebody may go on from the run's folder.

    Raises:
      InputError: at construction, for a number that is none.
    """

    recipe: str
    optimizer: Optimizer | None
    learning_rate: Rate | None
    epochs: int | None
    steps: int | None
    batch_size: int | None
    seed: int
    max_source_length: int | None
    max_target_length: int | None
    overlength: str | None
    eval_period: int | str | None
    early_stopping_patience: int | None
    microbatches: int
    kept: bool

    def __post_init__(self):
        names = (
            "epochs steps batch_size max_target_length early_stopping_patience microbatches".split()
        )
        for name in names:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive(name, getattr(self, name)))
        for name in ("seed", "eval_period"):
            if isinstance(number := getattr(self, name), np.integer):
                object.__setattr__(self, name, int(number))

    def settings(self, longest_target: int, evaluates: bool) -> tuple[dict[str, Any], Any]:
        """Fields of `RunConfig`, and what tells the recipe from others.

        Args:
          longest_target: tokens of the longest target, end token included.
          evaluates: whether there are pairs to evaluate on.

        Raises:
          InputError: for a recipe, an optimizer or a rate that cannot be used.
        """
        settings, trained_by = recipes.with_changes(self.recipe, self.optimizer, self.learning_rate)
        if self.steps is not None or self.epochs is not None:
            settings |= {"epochs": self.epochs, "train_steps": self.steps}
        recipes_limit = settings["task_feature_lengths"]["inputs"]
        given = {
            "batch_size": self.batch_size,
            "eval_period": self.eval_period if evaluates else 0,
            "overlength": self.overlength,
            "checkpoint_period": None if evaluates or self.kept else _NEVER,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
        settings |= {
            "task_feature_lengths": {
                "inputs": self.max_source_length or recipes_limit,
                "targets": self.max_target_length or longest_target,
            },
            "random_seed": self.seed,
            "early_stopping_patience": self.early_stopping_patience,
            "microbatches": self.microbatches,
        }
        return settings, trained_by


def prepare_run(
    base: Prepared,
    folder: str,
    training: Training,
    rows: Pairs,
    held_out: Pairs | None,
    metrics: TextMetrics,
) -> PreparedPairs:
    """Prepares the run.

    Args:
      base: the T5, with its vocabulary and what is to be trained.
      folder: the run's.
      training: how to train.
      rows: the pairs to train on.
      held_out: the pairs to evaluate on; None where there is no evaluation.
      metrics: what evaluation measures.

    Raises:
      InputError: for a recipe that cannot be used, or texts that are too long.
    """
    longest = longest_target(base.vocabulary, [*rows, *(held_out or ())])
    settings, trained_by = training.settings(longest, held_out is not None)
    if base.config.prompt is not None and recipes.starts_measured(training.recipe):
        settings["prompt"] = at_residual_norm(base.config.prompt)
    config = dataclasses.replace(base.config, model_dir=folder, **settings)
    return prepare_pairs(base, config, rows, held_out, metrics, trained_by)


def longest_target(vocabulary: KeptVocabulary, rows: Pairs | Sequence[Any]) -> int:
    """Tokens of the longest target, end token included."""
    return max(len(x) for x in tokenize(vocabulary, (target for _, target in rows)))


@contextlib.contextmanager
def run_folder(model_dir: str | os.PathLike | None) -> Iterator[str]:
    """The run's folder; a temporary one where none is named."""
    if model_dir is not None:
        yield os.fspath(model_dir)
        return
    with tempfile.TemporaryDirectory(prefix="dpt-") as folder:
        yield folder
