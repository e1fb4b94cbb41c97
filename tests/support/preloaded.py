"""What a process of the fork server has imported before it starts: see `tests.support.processes`.

Nothing here may start a backend of JAX or TensorFlow, or read what a test sets.
"""

import contextlib
import gc
import logging
import sys

import flax.linen  # noqa: F401
import jax
import matplotlib
import numpy as np  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import seqio
import sklearn.metrics  # noqa: F401
import tensorflow as tf
import tensorflow_datasets as tfds  # noqa: F401
from jax._src import xla_bridge
from tensorflow.python.eager import context

import dpt_jax.cli.evaluate
import dpt_jax.cli.sweep
import dpt_jax.cli.train
import dpt_jax.demo
import dpt_jax.evaluation.evaluator
import dpt_jax.interop
import dpt_jax.planning.ahead_of_time
import dpt_jax.problems.text
import dpt_jax.training.trainer  # noqa: F401

matplotlib.use("Agg")

with contextlib.suppress(ImportError):  # T5X is not on PyPI.
    import t5x.checkpoints
    import t5x.models
    import t5x.train_state
    import t5x.trainer
    import t5x.utils  # noqa: F401

# A library that warned while it was imported has set the root logger up, which is the program's.
logging.root.handlers.clear()


class _Rows:
    """Stands for a dataset of one row where its functions are converted, and nothing is read."""

    def __init__(self, row):
        self._row = row

    def map(self, function, **_):
        autograph = tf.__internal__.autograph
        return _Rows(autograph.tf_convert(function, autograph.control_status_ctx())(self._row))


def convert_preprocessors() -> None:
    """Lets AutoGraph convert what most tasks consist of: a second in each process, if not here."""
    features = {
        name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")
    }
    with tf.Graph().as_default():
        rows = _Rows({name: tf.compat.v1.placeholder(tf.string, []) for name in features})
        for preprocess in (seqio.preprocessors.tokenize, seqio.preprocessors.append_eos):
            rows = preprocess(rows, output_features=features)


convert_preprocessors()

assert not xla_bridge.backends_are_initialized()
assert not context.context()._initialized
assert "dpt_jax.tasks" not in sys.modules, "tests set what these read"
# What JAX has read from the environment.
READ_AT_IMPORT = [name.upper() for name in jax.config.values]

# The processes share this memory as long as none of them writes to it, as their collectors would.
gc.collect()
gc.freeze()
