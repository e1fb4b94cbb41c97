"""Whatever kind of run gin has bound: built, prepared, and trained."""

from collections.abc import Callable
from typing import Any

from dpt_jax import gin_utils
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.training.config import RunConfig, TrainingConfig

_KINDS: dict[str, type[TrainingConfig]] = {kind.KIND: kind for kind in (RunConfig, ImageRunConfig)}


def build() -> Any:
    """The `RunConfig` or `ImageRunConfig` that the parsed gin configuration describes.

    Raises:
      InputError: as `gin_utils.build` does.
    """
    return gin_utils.build(_KINDS[gin_utils.bound_run() or RunConfig.KIND])


def prepare(config: TrainingConfig, mesh: Any = None, like: Any = None) -> Any:
    """Prepares a run of either kind; see `text.prepare`."""
    if isinstance(config, ImageRunConfig):
        from dpt_jax.problems import images

        return images.prepare(config, mesh, like)
    from dpt_jax.problems import text

    assert isinstance(config, RunConfig)
    return text.prepare(config, mesh, like)


def train(config: TrainingConfig, gin_config: Callable[[], str] = str) -> dict[str, Any]:
    """Prepares a run of either kind and trains it; see `trainer.train`."""
    if isinstance(config, ImageRunConfig):
        from dpt_jax.problems import images

        return images.train(config, gin_config)
    from dpt_jax.problems import text

    assert isinstance(config, RunConfig)
    return text.train(config, gin_config)
