"""Soft prompts inside T5X's own encoder, trainer, partitioner, checkpoints and evaluation.

For people who launch `t5x.train`, `t5x.eval` and `t5x.infer`: the gin files in `gin_configs/t5x/`
put these modules where T5X's own would stand, and nothing in T5X is changed. docs/t5x.md tells how
to install T5X and how to launch. Importing any module of this package needs T5X; nothing else in
dpt_jax does.
"""

from dpt_jax import gin_utils
from dpt_jax.quiet_import import quiet_import

_REMEDY = (
    "Put T5X (github.com/google-research/t5x, commit cc342d4), airio and jestimator on PYTHONPATH "
    "and `pip install cached_property clu fiddle grain`, as docs/t5x.md tells."
)
# What is used of T5X that older versions lack.
_NEEDED = {
    "t5x.checkpoints": ("Checkpointer", "OrbaxCheckpointManagerInterface"),
    "t5x.examples.t5.layers": ("Embed", "make_attention_mask"),
    "t5x.examples.t5.network": ("Encoder", "Decoder", "Transformer"),
    "t5x.models": ("EncoderDecoderModel",),
    "t5x.optimizers": ("Optimizer", "OptimizerState", "OptaxWrapper"),
    "t5x.state_utils": ("flatten_state_dict",),
    "t5x.train_state": ("FlaxOptimTrainState", "InferenceState"),
    "t5x.utils": ("LegacyCheckpointManager", "TrainStateInitializer", "get_vocabulary"),
}


def _require_t5x() -> None:
    """Raises ImportError, in one line that says what to install, unless T5X can be used."""
    for module, names in _NEEDED.items():
        try:
            found = quiet_import(module)
        except ImportError as error:
            # The cause's own traceback would bury the one line that helps.
            raise ImportError(
                f"dpt_jax.t5x needs T5X, but `import {module}` fails: {error}. {_REMEDY}"
            ) from None
        missing = [name for name in names if not hasattr(found, name)]
        if missing:
            raise ImportError(
                f"T5X at {found.__file__} is too old: {module} has no {missing[0]}. {_REMEDY}"
            )


_require_t5x()
# The gin files that are read after the first, which imports this package, may be ours.
gin_utils.pass_by_plain_folders()
