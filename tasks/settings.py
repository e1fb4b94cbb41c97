"""What can be set from outside: where the rows are and which vocabulary they are tokenized with.

Each is an environment variable or a gin binding, which wins. Both are read when a data set or a
token is first asked for, so that importing the tasks needs neither:

    from __gin__ import dynamic_registration
    from dpt_jax.tasks import settings
    settings.superglue_dir.path = "/data/superglue"
    settings.vocabulary_file.path = "/models/t5/sentencepiece.model"
"""

import os

import gin

# The vocabulary of T5 1.0 and 1.1 (T5's library); its 100 extra ids are not in the file.
T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
EXTRA_IDS = 100
# ByT5's, which no file holds; its extra ids fill the embedding table up to 384 rows.
BYTES = "bytes"
BYTE_EXTRA_IDS = 125


@gin.configurable(module="dpt_jax.tasks.settings")
def superglue_dir(path: str | None = None) -> str | None:
    """The folder of raw SuperGLUE jsonl, or None to read TFDS `super_glue`.

    Args:
      path: bound through gin; None takes the environment's `DPT_SUPERGLUE_DIR`.
    """
    return path or os.environ.get("DPT_SUPERGLUE_DIR") or None


@gin.configurable(module="dpt_jax.tasks.settings")
def vocabulary_file(path: str | None = None) -> str:
    """The SentencePiece model of the tasks' `inputs` and `targets`, or "bytes", as ByT5 has them.

    Args:
      path: bound through gin; None takes the environment's `DPT_VOCAB`, and without it T5's public
        vocabulary.
    """
    return path or os.environ.get("DPT_VOCAB") or T5_VOCABULARY
