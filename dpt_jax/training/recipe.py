"""How a run trains, beside what it trains: optimizer, schedule, clipping, first values, scoring.

It is part of the run's identity: a folder's result is that of the recipe it was trained by.
"""

from typing import Any

from dpt_jax import gin_text
from dpt_jax.training.config import TrainingConfig

# Plain settings, and those of the functions that gin binds. Only the latter need gin.
_PLAIN, _GIN = "recipe.", "gin."


def describe(config: TrainingConfig, gin_config: str) -> dict[str, Any]:
    """A recipe as flat JSON.

    Args:
      config: how to train.
      gin_config: the operative gin configuration, in which the optimizer and the schedule have been
        called; where it is empty only the plain settings are known.
    """
    plain = {f"{_PLAIN}{name}": getattr(config, name) for name in config.RECIPE}
    settings = gin_text.settings_of(gin_config, _functions(config))
    return plain | {f"{_GIN}{name}": setting.value for name, setting in settings.items()}


def is_part(name: str) -> bool:
    """Whether a name in a run's identity is part of its recipe."""
    return name.startswith((_PLAIN, _GIN))


def shown(config: TrainingConfig, name: str, value: Any, gin_config: str) -> tuple[str, str]:
    """A part of a recipe for a message: the flag that sets it, and its value."""
    if name.startswith(_PLAIN):
        return config.flag_of(name.removeprefix(_PLAIN)), repr(value)
    name = name.removeprefix(_GIN)
    return gin_text.settings_of(gin_config, _functions(config))[name].flag, value


def _functions(config: TrainingConfig) -> list[str]:
    """What of a configuration is no plain setting, but may be a function with settings."""
    return [f"{config.KIND}.{name}" for name in config.FUNCTIONS]
