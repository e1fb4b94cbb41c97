"""A pretrained T5's folder, under a name that T5X takes for that of a checkpoint."""

import os
import re
from collections.abc import Sequence

from tensorflow.io import gfile

# What T5X takes for a step at the end of a path.
_STEP = re.compile(r"\d+/?$")
_NUMBER = "checkpoint_0"


def numbered(path: str | Sequence[str]) -> str | list[str]:
    """CHECKPOINT_PATH for `t5x.eval`, which notes the step of what it has evaluated.

    Args:
      path: one or several, each a checkpoint, a folder of checkpoints, or a pretrained T5.

    Returns:
      The same, where it ends in a step or has checkpoints in it. A folder of another kind gets a
      step that is not there, and which `PromptCheckpointer` leaves out again.
    """
    if not isinstance(path, str):
        return [str(numbered(one)) for one in path]
    if _STEP.search(path) or gfile.glob(os.path.join(path, "checkpoint_*")):
        return path
    return os.path.join(path, _NUMBER)


def without_number(path: str) -> str:
    """The folder that `numbered` was given."""
    folder, name = os.path.split(path)
    return folder if name == _NUMBER and not gfile.exists(path) else path
