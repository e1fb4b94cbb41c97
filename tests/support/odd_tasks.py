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


def broken(split, shuffle_files, seed=None):
    """A row that its reader refuses, in the middle of reading."""

    def rows():
        yield from list(toy_tasks.examples(split))[:2]
        raise ValueError("row 2 of toy.jsonl has no 'label'")

    return tf.data.Dataset.from_generator(
        rows, output_signature={k: tf.TensorSpec([], tf.string) for k in ("inputs", "targets")}
    )


def only_yes_twice(dataset):
    """No example of a row whose target is no, two of any other."""
    dataset = dataset.filter(lambda row: row["targets"] == "yes")
    return dataset.flat_map(lambda row: tf.data.Dataset.from_tensors(row).repeat(2))


def add(
    name,
    dataset_fn=None,
    splits=("train", "validation"),
    features=None,
    metrics=None,
    preprocessors=(),
    append_eos=seqio.preprocessors.append_eos,
):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            dataset_fn or functools.partial(toy_tasks.dataset_fn, marker="x"), splits=list(splits)
        ),
        preprocessors=[
            *preprocessors,
            seqio.preprocessors.tokenize,
            append_eos,
        ],
        output_features=features or SMALL,
        metric_fns=[toy_tasks.accuracy] if metrics is None else metrics,
    )


LOST = {
    name: seqio.Feature(
        seqio.SentencePieceVocabulary("nowhere/sentencepiece.model"), add_eos=True, dtype=tf.int32
    )
    for name in SMALL
}

add("toy_empty", none_of)
add("toy_broken", broken)
add("toy_cut", append_eos=seqio.preprocessors.append_eos_after_trim)
add("toy_filtered", preprocessors=[only_yes_twice])
add("toy_lost_vocabulary", features=LOST)
add("toy_no_metrics", metrics=[])
add("toy_no_validation", splits=["train"])
add("toy_large_vocabulary", features=LARGE)
add("toy_targets_only", features={"targets": SMALL["targets"]})
