"""A SeqIO task that kills the process which reads it, as Linux does when memory runs out."""

import os
import signal

import tensorflow as tf

from tests.support import odd_tasks, toy_tasks


def killing(split, shuffle_files, seed=None):
    """No row ever comes."""

    def rows():
        os.kill(os.getpid(), signal.SIGKILL)
        yield from toy_tasks.examples(split)

    return tf.data.Dataset.from_generator(
        rows, output_signature={k: tf.TensorSpec([], tf.string) for k in ("inputs", "targets")}
    )


odd_tasks.add("toy_killing", killing)
