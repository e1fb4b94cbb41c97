"""A SeqIO task small enough to train on in a test: does a word of letters contain an "x"?"""

import functools
import random

import seqio
import tensorflow as tf

VOCABULARY = seqio.ByteVocabulary(extra_ids=0)
FEATURES = {
    name: seqio.Feature(VOCABULARY, add_eos=True, dtype=tf.int32) for name in ("inputs", "targets")
}
SIZES = {"train": 90, "validation": 20}


def examples(split, shuffle_files=False, seed=None, marker="x", longest=40):
    """Yields words of 2 to `longest` letters, half of them with `marker`."""
    del shuffle_files, seed
    rng = random.Random(f"{split}{marker}")
    for i in range(SIZES[split]):
        letters = [rng.choice("abcdefg") for _ in range(rng.randint(2, longest))]
        if i % 2:
            letters[rng.randrange(len(letters))] = marker
        yield {"inputs": "".join(letters), "targets": "yes" if i % 2 else "no"}


def dataset_fn(split, shuffle_files, seed=None, marker="x"):
    """The examples as a tf.data.Dataset."""
    return tf.data.Dataset.from_generator(
        functools.partial(examples, split, marker=marker),
        output_signature={k: tf.TensorSpec([], tf.string) for k in ("inputs", "targets")},
    )


def accuracy(targets, predictions):
    """Share of exact matches."""
    right = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": right / len(targets)}


def add(name, marker):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            functools.partial(dataset_fn, marker=marker),
            splits=list(SIZES),
            num_input_examples=SIZES,
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=FEATURES,
        metric_fns=[accuracy],
    )


add("toy_x", "x")
add("toy_z", "z")
seqio.MixtureRegistry.add("toy_mixture", [("toy_x", 3.0), ("toy_z", 1.0)])
