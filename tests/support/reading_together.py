"""Reads training splits as one process of several: `python -m tests.support.reading_together`.

JSON on standard output: the tokens of each split, how many rows of the source this process has
preprocessed for each, and what it is told of the splits that cannot be used.
"""

import functools
import json

import jax
import seqio
import tensorflow as tf

from dpt_jax.data.examples import load_split
from dpt_jax.devices import exchange
from dpt_jax.devices.launch import running
from dpt_jax.errors import InputError
from tests.support import odd_tasks, toy_tasks

LENGTHS = {"inputs": 64, "targets": 6}
SHORT = {"inputs": 20, "targets": 6}
NAMES = ("toy_x", "toy_z", "toy_filtered")
ROWS = toy_tasks.SIZES["train"]


def counted(task, seen):
    """The task, which notes in the list `seen` every row that it begins to preprocess."""

    def note():
        seen.append(task.name)
        return True

    def notes(dataset):
        return dataset.filter(lambda row: tf.ensure_shape(tf.py_function(note, [], tf.bool), []))

    return task.replace(preprocessors=[notes, *task.preprocessors])


def tokens(examples):
    """A task's examples as lists of numbers."""
    return [[row.tolist() for row in rows] for rows in (examples.inputs, examples.targets)]


def late(split, shuffle_files, seed=None):
    """A row that its reader refuses, in the second half of the split."""

    def rows():
        yield from list(toy_tasks.examples(split))[:60]
        raise ValueError("row 60 of toy.jsonl has no 'label'")

    return tf.data.Dataset.from_generator(
        rows, output_signature={k: tf.TensorSpec([], tf.string) for k in ("inputs", "targets")}
    )


def with_source(name, dataset_fn, rows):
    source = seqio.FunctionDataSource(
        dataset_fn, splits=["train"], num_input_examples={"train": rows}
    )
    return seqio.get_mixture_or_task("toy_x").replace(name=name, source=source)


class Shortened(seqio.Task):
    """A task of a kind of its own, which has none of the first rows."""

    def get_dataset(self, *args, **kwargs):
        return super().get_dataset(*args, **kwargs).skip(5)


def shortened():
    toy = seqio.get_mixture_or_task("toy_x")
    return Shortened("toy_short", toy.source, toy.output_features, toy.preprocessors)


def refusal(task, lengths=LENGTHS):
    """What is said of a split that cannot be used."""
    try:
        load_split(task, "train", lengths, together=True)
    except InputError as error:
        return str(error)


def results():
    seen, found = [], {}
    load = functools.partial(load_split, split="train", together=True)
    tasks = [counted(seqio.get_mixture_or_task(name), seen) for name in NAMES]
    for task in tasks[:2]:
        [examples] = load(task, feature_lengths=LENGTHS)
        found[task.name] = tokens(examples)
    # Few numbers at a time give the same.
    exchange._AT_ONCE = 50
    [examples] = load(tasks[2], feature_lengths=LENGTHS)
    found[tasks[2].name] = tokens(examples)
    preprocessed = {name: seen.count(name) for name in NAMES}
    [examples] = load(tasks[0], feature_lengths=SHORT, overlength="drop")
    [of_own_kind] = load(shortened(), feature_lengths=LENGTHS)
    other_size = ROWS + jax.process_index()
    return {
        "tokens": found,
        "preprocessed": preprocessed,
        "short": tokens(examples),
        "of its own kind": tokens(of_own_kind),
        "refusals": {
            "long": refusal(tasks[0], SHORT),
            "empty": refusal(with_source("toy_empty", odd_tasks.none_of, ROWS)),
            "late": refusal(with_source("toy_late", late, ROWS)),
            "sizes": refusal(with_source("toy_sizes", toy_tasks.dataset_fn, other_size)),
        },
    }


if __name__ == "__main__":
    with running():
        print(json.dumps(results()))
