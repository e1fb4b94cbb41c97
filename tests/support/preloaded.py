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
import seqio  # noqa: F401
import sklearn.metrics  # noqa: F401
import tensorflow as tf  # noqa: F401
import tensorflow_datasets as tfds  # noqa: F401
from jax._src import xla_bridge

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

assert not xla_bridge.backends_are_initialized()
assert "dpt_jax.tasks" not in sys.modules, "tests set what these read"
# What JAX has read from the environment.
READ_AT_IMPORT = [name.upper() for name in jax.config.values]

# The processes share this memory as long as none of them writes to it, as their collectors would.
gc.collect()
gc.freeze()
