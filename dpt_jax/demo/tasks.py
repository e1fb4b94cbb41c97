"""The demo's tasks in SeqIO's registry, as T5X takes them; importing this module registers them.

`dpt` itself reads the same rows from `dpt_jax.demo.text_tasks`, which tells the names, and which
brings neither SeqIO nor TensorFlow.
"""

import functools
import itertools

import seqio
import tensorflow as tf

from dpt_jax.demo import MIXTURE, VOCABULARY, superglue
from dpt_jax.demo.text_tasks import DRAWS, Draw, accuracy, sizes, stripped, texts


def _dataset(
    task: str,
    split: str,
    shuffle_files: bool = False,
    seed: int | None = None,
    draw: Draw | None = None,
) -> tf.data.Dataset:
    del shuffle_files, seed  # Rows are in random order already, and the same each time.
    rows = texts(task, draw, split)
    return tf.data.Dataset.from_tensor_slices(
        {key: [row[key] for row in rows] for key in ("inputs", "targets")}
    )


def register() -> None:
    """Registers the tasks and the mixture; does nothing where they are registered already."""
    vocabulary = seqio.SentencePieceVocabulary(str(VOCABULARY))
    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=True),
        "targets": seqio.Feature(vocabulary, add_eos=True),
    }
    for task, draw in itertools.product(superglue.TASKS, [None, *DRAWS]):
        name = task if draw is None else task + draw.suffix
        if name in seqio.TaskRegistry.names():
            continue
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(
                functools.partial(_dataset, task, draw=draw),
                splits=tuple(sizes(draw)),
                num_input_examples=sizes(draw),
            ),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            postprocess_fn=stripped,
            metric_fns=[accuracy],
            output_features=features,
        )
    if MIXTURE not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(MIXTURE, list(superglue.TASKS), default_rate=1.0)


register()
