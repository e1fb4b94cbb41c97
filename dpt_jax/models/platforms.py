"""What differs by platform, chosen when a program is lowered."""

from collections.abc import Callable
from typing import Any

import jax

# JAX's names for the same in `platform_dependent`.
_LOWERING = {"cpu": "default", "gpu": "cuda", "tpu": "tpu"}


def by_platform(choice: Callable[[str], Callable[..., Any]], *operands: Any) -> Any:
    """Applies what is chosen for the platform that the program will run on.

    Args:
      choice: gives the function for a platform: "cpu", "gpu" or "tpu".
      *operands: what the function takes.
    """
    chosen = {platform: choice(platform) for platform in _platforms()}
    if len(chosen) == 1:
        (only,) = chosen.values()
        return only(*operands)
    return jax.lax.platform_dependent(*operands, **{_LOWERING[p]: f for p, f in chosen.items()})


def _platforms() -> tuple[str, ...]:
    """What a program that is being traced may be lowered for: its mesh's platform, if it has one.

    Without a mesh it may be this process's default, and any process's CPU.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return (device.platform,)
    default = jax.default_backend()
    return ("cpu",) if default == "cpu" else ("cpu", default)
