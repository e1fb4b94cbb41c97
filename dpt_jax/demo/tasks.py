"""The demo's SeqIO tasks; importing this module registers them.

`demo_entailment`, `demo_questions` and `demo_wordsense`, and the mixture `demo_superglue` of all
three. `<task>_k<k>_s<seed>` is a task with k of its training examples: 8, 16 or 32 of them in three
draws, the smaller inside the larger. Examples are generated in the process: nothing is downloaded.
"""

import functools
import itertools
import random

import seqio
import tensorflow as tf

from dpt_jax.demo import MIXTURE, VOCABULARY, superglue

FEW_SHOT_K = (8, 16, 32)
FEW_SHOT_SEEDS = (0, 1, 2)


def accuracy(targets: list[str], predictions: list[str]) -> dict[str, float]:
    """Share, 0 to 1, of predictions that equal their target exactly."""
    right = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": right / len(targets)}


def stripped(text: str, **unused_kwargs) -> str:
    """The whole generated answer, without surrounding white space."""
    return text.strip()


def _dataset(
    task: str,
    split: str,
    shuffle_files: bool = False,
    seed: int | None = None,
    draw: tuple[int, int] | None = None,
) -> tf.data.Dataset:
    del shuffle_files, seed  # Rows are in random order already, and the same each time.
    rows = superglue.rows(task, split)
    if draw is not None and split == "train":
        k, number = draw
        order = random.Random(f"{task} draw {number}").sample(range(len(rows)), len(rows))
        rows = tuple(rows[i] for i in order[:k])
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
    draws = [None, *((k, number) for k in FEW_SHOT_K for number in FEW_SHOT_SEEDS)]
    for task, draw in itertools.product(superglue.TASKS, draws):
        name = task if draw is None else f"{task}_k{draw[0]}_s{draw[1]}"
        if name in seqio.TaskRegistry.names():
            continue
        sizes = superglue.SIZES if draw is None else superglue.SIZES | {"train": draw[0]}
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(
                functools.partial(_dataset, task, draw=draw),
                splits=superglue.SPLITS,
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
