"""What a run trains, as the trainer sees it: arrays and functions of them.

The trainer knows nothing of text, tasks or networks. A `Problem` hands it the parameters and which
of them are trained, the batch of every step, the loss, the evaluation, and what tells this problem
from another. `dpt_jax.problems.text` makes one of a frozen T5 and a SeqIO task.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from dpt_jax.training.state import Params
from dpt_jax.training.step import Batch, LossFn


@dataclasses.dataclass
class TaskResult:
    """What evaluating one task gives.

    Attributes:
      task: the task's name.
      metrics: the task's metrics by name, as far as they are numbers.
      predictions: one record per example, ready for JSON. There are none on processes other than
        the first, and for averages over tasks.
      shown: metrics that are no numbers (texts, pictures), as TensorBoard's `Summary.Value`s
        without a tag; there are none where there are no predictions.
    """

    task: str
    metrics: dict[str, float]
    predictions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    shown: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Evaluation:
    """What evaluating parameters gives.

    Attributes:
      value: the number by which steps are compared; higher is better.
      results: those of every task, and averages under a name of their own.
    """

    value: float
    results: Sequence[TaskResult]


class Batches(Protocol):
    """The training examples and their order."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen about once."""

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        """The batch of an update, a function of the run's seed and `step` alone.

        Args:
          step: updates made before, from 0.
          rows: which rows of the whole batch to give, ascending; a process gives its devices' own.

        Returns:
          Arrays whose first axis is as long as `rows`.
        """


@dataclasses.dataclass(frozen=True)
class Folding:
    """What the network sees of the trained parameters, whatever the method they belong to.

    Runs whose folded parameters have the same shapes can take their steps by one program
    (`dpt_jax.sweeps.population`).

    Attributes:
      fold: gives the folded parameters of `(trained, frozen)`, as float32 arrays.
      loss_fn: `Problem.loss_fn` of folded parameters.
      blanks: batches of padding, one of every shape that there is.
      random: the loss depends on random draws, and these on the shape of the batch.
    """

    fold: Callable[[Params, Params], Params]
    loss_fn: LossFn
    blanks: Sequence[Batch]
    random: bool = False


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


@dataclasses.dataclass
class Problem:
    """What a run trains.

    Attributes:
      name: what is trained on, for messages and for the metrics of all tasks together.
      params: all parameters, nested dicts of arrays, or of `Tensor`s that are not read yet.
      trainable: regular expression; a parameter whose whole name, such as `prompt/A`, matches is
        trained, and the others are frozen.
      loss_fn: the loss of a batch, summed, and the number of things that it is summed over.
      data: the batches.
      identity: what must not change when the run is continued, flat JSON.
      description: what is trained on, in a line for people.
      shardings: gives, for a mesh, a tree like `params` of shardings; None puts a whole copy on
        every device.
      evaluate: evaluates merged parameters; None where there is no evaluation.
      export: puts merged parameters into a form for others, in every process, and gives what
        writes it into a folder; None where there is no such form beside the checkpoints.
      diagnostics: numbers that the trained parameters say of themselves, logged at evaluations.
      files: files to be kept in the run's folder, by name: bytes, or a JSON object. They are the
        same when the run goes on.
      folding: how several such runs are trained together; None where they are not.
      facts: what else must be the same in all processes, flat JSON; asked only where there are
        several.
    """

    name: str
    params: Params
    trainable: str
    loss_fn: LossFn
    data: Batches
    identity: Mapping[str, Any]
    description: str = ""
    shardings: Callable[[Mesh], Params] | None = None
    evaluate: Callable[[Params], Evaluation] | None = None
    export: Callable[[Params], Callable[[pathlib.Path], None]] | None = None
    diagnostics: Callable[[Params], Mapping[str, float]] = _nothing
    files: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    folding: Folding | None = None
    facts: Callable[[], Mapping[str, Any]] = _nothing
