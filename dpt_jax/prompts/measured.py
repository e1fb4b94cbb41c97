"""Where a prompt starts by a number that is measured on the frozen model."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from dpt_jax.prompts.initializers import Initializer

NO_MODEL = (
    "The prompt starts at the norm of the pretrained T5's residual stream, but "
    "INITIAL_CHECKPOINT_PATH is None. Set --gin.INITIAL_CHECKPOINT_PATH, or use a prompt gin file "
    "without _measured."
)
"""What is said where there is nothing to measure."""

# The fields of our methods that decide their prompt's norm, and which factor each is.
_FACTORS: dict[str, Literal["A", "B"] | None] = {
    "a_init": "A",
    "b_init": "B",
    "prompt_init": None,
    "v_init": None,
}
_Module = TypeVar("_Module", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class ResidualNorm:
    """Starts a prompt's rows at the norm n of the frozen encoder's residual stream.

    Entries are Gaussian, with the standard deviation s for which the expected squared norm of a row
    of the prompt is n²: `s = n / sqrt(D)` for rows `[length, D]`, and for both factors of a
    `DecomposedPrompt`, whose rows have the expected squared norm b·D·s⁴, `s = (n² / (b·D))^(1/4)`.

    Rows at the norm of the vocabulary's embeddings, several times smaller than n, are overwritten
    by the frozen layers. Training then first has to make them larger (docs/recipes.md). Lester et
    al. (2021) publish three prompts for T5 1.1 Base: their rows end at norms of about 900 to 1,400,
    a hundred times those of a uniform start.

    It is configured before the model is loaded, and bound to the measured n by
    `bind_residual_norm`; `dpt_jax.models.residual_norm` measures it.

    Attributes:
        factor: "A" `[P, b]` or "B" `[b, D]` of a `DecomposedPrompt`; None for rows `[length, D]`.
        multiple: by what n is multiplied.

    Raises:
        ValueError: at construction, for another factor, or a multiple that is not positive.
    """

    factor: Literal["A", "B"] | None = None
    multiple: float = 1.0

    def __post_init__(self):
        if self.factor not in ("A", "B", None):
            raise ValueError(
                f"measured.ResidualNorm.factor is {self.factor!r}, but must be 'A', 'B' or None."
            )
        if not (math.isfinite(self.multiple) and self.multiple > 0):
            raise ValueError(
                f"measured.ResidualNorm.multiple is {self.multiple!r}, but must be above 0. Set "
                "--gin.measured.ResidualNorm.multiple."
            )

    def bind(self, norm: float, width: int) -> Initializer:
        """Makes the initializer for a model.

        Args:
            norm: n.
            width: D, which the factor A does not show.

        Raises:
            ValueError: where n is not a positive, finite number.
        """
        if not (math.isfinite(norm) and norm > 0):
            raise ValueError(
                f"The residual stream's norm is {norm}, but a prompt starts at a norm that is "
                "above 0 and finite. Change INITIAL_CHECKPOINT_PATH."
            )
        norm *= self.multiple

        def initializer(
            key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
        ) -> jax.Array:
            if self.factor is None:
                stddev = norm / math.sqrt(shape[-1])
            else:
                bottleneck = shape[1] if self.factor == "A" else shape[0]
                stddev = (norm**2 / (bottleneck * width)) ** 0.25
            return stddev * jax.random.normal(key, tuple(shape), dtype)

        return initializer

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        """Refuses: the model has not been measured.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"measured.ResidualNorm needs the frozen model to initialize a prompt of shape "
            f"{tuple(shape)}: call bind_residual_norm(prompt, norm) first, or give the prompt an "
            "initializer without it (initializers.gaussian)."
        )


def needs_residual_norm(prompt: nn.Module | None) -> bool:
    """Whether a prompt starts at a measured norm."""
    return bool(_measured(prompt))


def bind_residual_norm(prompt: _Module, norm: Callable[[], float]) -> _Module:
    """Binds every `ResidualNorm` of a prompt.

    Args:
        prompt: the prompt; it is left as it is.
        norm: measures n; called once, and only where an initializer needs it.
    """
    found = _measured(prompt)
    if not found:
        return prompt
    measured, width = norm(), prompt.embed_dim
    bound: dict[str, Any] = {name: init.bind(measured, width) for name, init in found.items()}
    return prompt.clone(parent=None, **bound)


def at_residual_norm(prompt: _Module) -> _Module:
    """A prompt that starts at the measured norm where its first values were left at their default.

    Those that were chosen, and methods of which nothing is known, stay as they are.
    """
    left = {
        field.name: ResidualNorm(_FACTORS[field.name])
        for field in dataclasses.fields(prompt)  # type: ignore[arg-type]
        if field.name in _FACTORS and getattr(prompt, field.name) is field.default
    }
    return prompt.clone(parent=None, **left) if left else prompt  # type: ignore[arg-type]


def _measured(prompt: nn.Module | None) -> dict[str, ResidualNorm]:
    if prompt is None:
        return {}
    fields = {f.name: getattr(prompt, f.name) for f in dataclasses.fields(prompt)}
    return {name: value for name, value in fields.items() if isinstance(value, ResidualNorm)}
