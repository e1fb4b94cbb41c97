"""Toy tasks whose rows bring the answers they admit, as rank classification needs."""

import functools

import seqio
import tensorflow as tf

from tests.support import toy_tasks

ANSWERS = ("no", "yes", "maybe so", "n", "never in all my life", "a")


def rows(split, candidates):
    """The rows of toy_x; `candidates(i)` are the answers that row i admits."""
    for i, row in enumerate(toy_tasks.examples(split)):
        yield row | {"idx": 100 + i, "candidates": candidates(i)}


def two(i):
    """The label words."""
    return list(ANSWERS[:2])


def varied(i):
    """Two to six answers, not in the order of their lengths."""
    return list(ANSWERS[: 2 + i % 5])


def one_lacks(i):
    """Row 3 admits no answer."""
    return [] if i == 3 else two(i)


def dataset_fn(split, shuffle_files, seed=None, candidates=two):
    """The rows as a tf.data.Dataset."""
    del shuffle_files, seed
    text = tf.TensorSpec([], tf.string)
    return tf.data.Dataset.from_generator(
        functools.partial(rows, split, candidates),
        output_signature={
            "inputs": text,
            "targets": text,
            "idx": tf.TensorSpec([], tf.int32),
            "candidates": tf.TensorSpec([None], tf.string),
        },
    )


def label(text, **unused):
    """The answer as a number, -1 for what is no label."""
    return ANSWERS.index(text) if text in ANSWERS else -1


def undefined(targets, predictions):
    """A metric that is not a number, as an F1 without positives."""
    del targets, predictions
    return {"nothing": float("nan")}


def not_on_targets(targets, predictions):
    """A metric that refuses outputs which are all right."""
    if targets == predictions:
        raise ValueError("all right")
    return {"accuracy": 0.0}


def add(name, candidates, metrics=(toy_tasks.accuracy,)):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            functools.partial(dataset_fn, candidates=candidates),
            splits=list(toy_tasks.SIZES),
            num_input_examples=toy_tasks.SIZES,
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=label,
        output_features=toy_tasks.FEATURES,
        metric_fns=list(metrics),
    )


add("ranked_two", two)
add("ranked_varied", varied)
add("ranked_lacking", one_lacks)
add("ranked_undefined", two, [toy_tasks.accuracy, undefined])
add("ranked_untestable", two, [not_on_targets])
seqio.MixtureRegistry.add("ranked_mixture", [("ranked_two", 1.0), ("ranked_varied", 1.0)])
