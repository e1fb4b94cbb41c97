"""SuperGLUE as text-to-text: SeqIO tasks and mixtures, installed as `dpt_jax.tasks`.

Importing this package registers

- `dpt_boolq`, `dpt_cb`, `dpt_copa`, `dpt_multirc`, `dpt_record`, `dpt_rte`, `dpt_wic`, `dpt_wsc`
  in T5's text format, and the same with `_digits` in that of DPT's released code
  (`preprocessors` shows both);
- `<task>_k<k>_s<seed>`, few-shot training sets (`few_shot` for any k and seed);
  `<task>_p<percent>_s<seed>`, shares of the training rows (`share`), by their names;
- the mixtures `dpt_superglue` (in proportion to the numbers of examples), `dpt_superglue_equal`,
  `dpt_superglue_digits` and `dpt_superglue_equal_digits`.

Rows come from TFDS `super_glue`, or from the folder that `DPT_SUPERGLUE_DIR` names; tokens from
T5's vocabulary, or from the one that `DPT_VOCAB` names, a SentencePiece file or `bytes`
(`settings`, also for gin).
"""

if __name__ != "dpt_jax.tasks":
    # From the repository's root the folder can also be found as `tasks`: a second module, which
    # would register every task a second time.
    raise ImportError(f"import this package as `dpt_jax.tasks`, not as `{__name__}`")

from dpt_jax.tasks.errors import TaskError
from dpt_jax.tasks.metrics import superglue_average
from dpt_jax.tasks.registry import TASKS, few_shot, few_shot_ids, register, register_by_name, share

__all__ = [
    "TASKS",
    "TaskError",
    "few_shot",
    "few_shot_ids",
    "register",
    "register_by_name",
    "share",
    "superglue_average",
]

register()
