"""A trained run on images: its network with the parameters of a step."""

import contextlib
import os

from dpt_jax import run_files
from dpt_jax.errors import InputError
from dpt_jax.paths import as_path
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.problems.images import FINGERPRINT, PreparedImages, prepare
from dpt_jax.tensors import Params, fingerprint
from dpt_jax.training.checkpoints import Checkpoints


def step_of(model_dir: str | os.PathLike, step: str = "best") -> int:
    """The step that `best`, `latest` or a number names among a run's checkpoints.

    Raises:
      InputError: when the folder is no run, or does not have that step.
    """
    with contextlib.closing(Checkpoints(model_dir, create=False)) as checkpoints:
        return run_files.named_step(model_dir, step, checkpoints.steps())


def load(
    config: ImageRunConfig, model_dir: str | os.PathLike, step: int
) -> tuple[PreparedImages, Params]:
    """A run's configuration, prepared, and all parameters as they were at a step.

    Raises:
      InputError: when another ViT stands where the run's was, or there is no such checkpoint.
    """
    prepared = prepare(config)
    saved = run_files.read_json(
        as_path(model_dir) / run_files.IDENTITY, "Copy the run's folder again."
    )
    found = fingerprint(prepared.backbone)
    if saved.get(FINGERPRINT, found) != found:
        raise InputError(
            f"{model_dir} was trained on another ViT than INITIAL_CHECKPOINT_PATH = "
            f"{config.initial_checkpoint_path!r}: {FINGERPRINT} is {saved[FINGERPRINT]} in its "
            f"{run_files.IDENTITY}, but {found} there. Set --gin.INITIAL_CHECKPOINT_PATH to where "
            "that ViT is now; a copy, or a conversion, will do."
        )
    with contextlib.closing(Checkpoints(model_dir, create=False)) as checkpoints:
        trained = checkpoints.restore_params(step)
    return prepared, prepared.trained(trained)
