"""The demo's SeqIO tasks; importing this module registers them.

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

import seqio
import tensorflow as tf

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


def _dataset(
    task: str,
    split: str,
    shuffle_files: bool = False,
    seed: int | None = None,
    draw: Draw | None = None,
) -> tf.data.Dataset:
    del shuffle_files, seed  # Rows are in random order already, and the same each time.
    if draw is not None and split != "validation":
        rows = draw.rows(task, split)
    else:
        rows = superglue.rows(task, split)
    texts = [superglue.text_to_text(task, row) for row in rows]
    return tf.data.Dataset.from_tensor_slices(
        {key: [text[key] for text in texts] for key in ("inputs", "targets")}
    )


def register() -> None:
    """Registers the tasks and the mixture; does nothing where they are registered already."""
    vocabulary = seqio.SentencePieceVocabulary(str(VOCABULARY))
    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=True),
        "targets": seqio.Feature(vocabulary, add_eos=True),
    }
    amounts = [(k, "k") for k in FEW_SHOT_K] + [(p, "p") for p in PERCENT]
    draws = [Draw(*amount, seed) for amount in amounts for seed in SEEDS]
    for task, draw in itertools.product(superglue.TASKS, [None, *draws]):
        name, sizes = task, dict(superglue.SIZES)
        if draw is not None:
            name += draw.suffix
            sizes |= {"train": draw.size(sizes["train"]), HELDOUT: held_out(sizes["train"])}
        if name in seqio.TaskRegistry.names():
            continue
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(
                functools.partial(_dataset, task, draw=draw),
                splits=tuple(sizes),
                num_input_examples=sizes,
            ),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            postprocess_fn=stripped,
            metric_fns=[accuracy],
            output_features=features,
        )
    if MIXTURE not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(MIXTURE, list(superglue.TASKS), default_rate=1.0)


register()
