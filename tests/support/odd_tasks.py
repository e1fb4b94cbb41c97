"""SeqIO tasks that cannot be trained on, each for one reason."""

import functools

import seqio
import tensorflow as tf

from tests.support import toy_tasks

SMALL = toy_tasks.FEATURES
LARGE = {
    name: seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True, dtype=tf.int32)
    for name in SMALL
}


def none_of(split, shuffle_files, seed=None):
    """No examples."""
    return toy_tasks.dataset_fn(split, shuffle_files, seed).take(0)


def add(name, dataset_fn=None, splits=("train", "validation"), features=None, metrics=None):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            dataset_fn or functools.partial(toy_tasks.dataset_fn, marker="x"), splits=list(splits)
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=features or SMALL,
        metric_fns=[toy_tasks.accuracy] if metrics is None else metrics,
    )


add("toy_empty", none_of)
add("toy_no_metrics", metrics=[])
add("toy_no_validation", splits=["train"])
add("toy_large_vocabulary", features=LARGE)
add("toy_targets_only", features={"targets": SMALL["targets"]})
