"""The first inputs of a task, for what is measured on a little of its text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from dpt_jax.data.batches import pad
from dpt_jax.data.reading import task_errors
from dpt_jax.data.tasks import check_split, get_provider, parts
from dpt_jax.data.text_tasks import TextTask

#: How many rows are taken of each task.
ROWS = 16


def of_task(
    mixture_or_task_name: str,
    mixture_or_task_module: str | None,
    task_feature_lengths: Mapping[str, int],
    split: str = "train",
) -> Int32[np.ndarray, "rows length"]:
    """`of_provider` of the task or mixture with a name, as T5X's gin files give it.

    Args:
      mixture_or_task_name: MIXTURE_OR_TASK_NAME.
      mixture_or_task_module: MIXTURE_OR_TASK_MODULE.
      task_feature_lengths: TASK_FEATURE_LENGTHS; longer inputs are cut.
      split: the split to read.

    Raises:
      InputError: there is no such task or split, or it cannot be read.
    """
    provider = get_provider(mixture_or_task_name, mixture_or_task_module)
    return of_provider(provider, task_feature_lengths, split)


def of_provider(
    provider: Any,
    task_feature_lengths: Mapping[str, int],
    split: str = "train",
) -> Int32[np.ndarray, "rows length"]:
    """The inputs of a task's first rows in its own order; of a mixture, of each of its tasks.

    Args:
      provider: the task or mixture.
      task_feature_lengths: TASK_FEATURE_LENGTHS; longer inputs are cut.
      split: the split to read.

    Raises:
      InputError: there is no such split, or it cannot be read.
    """
    found: list[np.ndarray] = []
    for task, _ in parts(provider):
        check_split(task, split)
        if isinstance(task, TextTask):
            found += [row["inputs"] for row in task.read(split, most=ROWS)]
            continue
        with task_errors(task.name, split):
            dataset = task.get_dataset(
                sequence_length=task_feature_lengths,
                split=split,
                shuffle=False,
                num_epochs=1,
                trim_output_features=False,
            )
            found += [row["inputs"] for row in dataset.take(ROWS).as_numpy_iterator()]
    return padded(found, task_feature_lengths["inputs"])


def padded(inputs: Sequence[np.ndarray], longest: int) -> Int32[np.ndarray, "rows length"]:
    """Inputs as one array, cut and padded with zeros."""
    cut = [tokens[:longest] for tokens in inputs]
    return pad(cut, len(cut), max(map(len, cut), default=0))
