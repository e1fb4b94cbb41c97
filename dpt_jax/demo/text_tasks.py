"""The demo's tasks, without SeqIO and TensorFlow.

`demo_entailment`, `demo_questions` and `demo_wordsense`, and the mixture `demo_superglue` of all
three. `<task>_k<k>_s<seed>` is a task with k of its training examples, 8, 16 or 32, and
`<task>_p<percent>_s<seed>` one with 1, 3, 10, 30 or 100 % of them. Of one seed the smaller are
inside the larger, and the split `heldout` has a tenth of the training examples, which none of them
has: settings are chosen by it. Examples are generated in the process: nothing is downloaded.
"""

import dataclasses
import functools
import itertools
import random

from dpt_jax.data.kept_vocabulary import Pieces
from dpt_jax.data.text_tasks import TextMixture, TextTask
from dpt_jax.demo import MIXTURE, VOCABULARY, superglue

FEW_SHOT_K = (8, 16, 32)
PERCENT = (1, 3, 10, 30, 100)
SEEDS = (0, 1, 2, 3, 4)
HELDOUT = "heldout"


def accuracy(targets: list[str], predictions: list[str]) -> dict[str, float]:
    """Share, 0 to 1, of predictions that equal their target exactly."""
    right = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": right / len(targets)}


def stripped(text: str, **unused_kwargs) -> str:
    """The whole generated answer, without surrounding white space."""
    return text.strip()


@dataclasses.dataclass(frozen=True)
class Draw:
    """A part of a task's training rows.

    Attributes:
      amount: how many.
      unit: "k" counts rows, and "p" percent of those that are not held out.
      seed: which draw.
    """

    amount: int
    unit: str
    seed: int

    @property
    def suffix(self) -> str:
        """What the name of a task with such a part ends in."""
        return f"_{self.unit}{self.amount}_s{self.seed}"

    def size(self, rows: int) -> int:
        """How many of so many training rows are drawn."""
        if self.unit == "k":
            return self.amount
        return max(1, round((rows - held_out(rows)) * self.amount / 100))

    def rows(self, task: str, split: str) -> tuple[superglue.Row, ...]:
        """The drawn rows, or those that are held out from all draws of the seed."""
        rows = superglue.rows(task, "train")
        order = random.Random(f"{task} draw {self.seed}").sample(range(len(rows)), len(rows))
        chosen = order[: self.size(len(rows))]
        if split == HELDOUT:
            chosen = order[-held_out(len(rows)) :]
        return tuple(rows[i] for i in chosen)


def held_out(rows: int) -> int:
    """How many of so many training rows are in no draw: a tenth."""
    return rows // 10


def sizes(draw: Draw | None) -> dict[str, int]:
    """The rows of every split of a task, or of a draw from it."""
    whole = dict(superglue.SIZES)
    if draw is None:
        return whole
    train = whole["train"]
    return whole | {"train": draw.size(train), HELDOUT: held_out(train)}


def texts(task: str, draw: Draw | None, split: str) -> list[dict[str, str]]:
    """The rows of a split as `inputs` and `targets`, in random order, and the same each time."""
    if draw is not None and split != "validation":
        rows = draw.rows(task, split)
    else:
        rows = superglue.rows(task, split)
    return [superglue.text_to_text(task, row) for row in rows]


AMOUNTS = [(k, "k") for k in FEW_SHOT_K] + [(percent, "p") for percent in PERCENT]
DRAWS = [Draw(*amount, seed) for amount in AMOUNTS for seed in SEEDS]
"""Every draw of every task."""


def _all_tasks() -> list[TextTask]:
    vocabulary = Pieces(VOCABULARY, add_eos=True)
    return [
        TextTask(
            task if draw is None else task + draw.suffix,
            functools.partial(texts, task, draw),
            tuple(sizes(draw)),
            vocabulary,
            accuracy,
            stripped,
        )
        for task, draw in itertools.product(superglue.TASKS, [None, *DRAWS])
    ]


_TASKS = _all_tasks()
_WHOLE = [task for task in _TASKS if task.name in superglue.TASKS]
TEXT_TASKS = [*_TASKS, TextMixture(MIXTURE, _WHOLE, [1.0] * len(_WHOLE))]
"""What `dpt` finds here."""
