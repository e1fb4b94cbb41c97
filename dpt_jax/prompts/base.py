"""What every soft prompt is: a Flax module that returns a `[length, embed]` array."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta
from flax.linen import partitioning
from jaxtyping import Array, Float

from dpt_jax.prompts.initializers import Initializer, shape_only


class SoftPrompt(nn.Module):
    """A learned `[length, embed]` array that is put in front of the embedded input.

    A method subclasses this, adds its own sizes and initializers as fields, and writes
    `__call__` with `declare_parameter`; `vanilla.py` is the shortest complete example. Everything
    else (counting, folding, drawing the initial values) works through `__call__` alone. Lester et
    al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021.

    Attributes:
        length: P, the number of prompt tokens (gin macro `PROMPT_LENGTH`).
        embed_dim: D, the width of the model's embeddings (gin macro `EMBED_DIM`). None leaves it
            open, until a model is known: `RunConfig` and `dpt_jax.PromptedT5` fill it in.

    Raises:
        ValueError: at construction, if a size is not a whole number of at least 1.
    """

    length: int
    embed_dim: int | None = None

    def __post_init__(self):
        require_size(self, "length", "PROMPT_LENGTH")
        if self.embed_dim is not None:
            require_size(self, "embed_dim", "EMBED_DIM")
        super().__post_init__()

    def __call__(self) -> Float[Array, "length embed"]:
        """Returns the prompt, float32 `[length, embed]`, computed from the module's parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__.")

    @nn.nowrap
    def parameter_count(self) -> int:
        """Returns how many numbers the method trains.

        Nothing is allocated, and no initializer is called (see `shape_only`).
        """
        shapes = jax.eval_shape(shape_only(self).initialize, jax.random.key(0))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    @nn.nowrap
    def initialize(self, rng: jax.Array) -> dict[str, Any]:
        """Draws the initial parameters.

        Args:
            rng: a JAX random key.

        Returns:
            The method's parameters by name, float32.

        Raises:
            ValueError: if an initializer is unbound (see `bind_vocabulary`) or cannot give the
                shape the prompt wants.
        """
        return dict(self.clone(parent=None).init(rng)["params"])

    @nn.nowrap
    def fold(self, params: Mapping[str, Any]) -> np.ndarray:
        """Computes the plain prompt that the parameters stand for.

        Args:
            params: the method's parameters by name, as `initialize` returns them.

        Returns:
            A float32 numpy array `[length, embed]`: what `VanillaPrompt` would have as its only
            parameter to act on the model in the same way.

        Raises:
            ValueError: if a parameter has another shape than this prompt declares.
        """
        return np.asarray(self.clone(parent=None).apply({"params": params}), dtype=np.float32)

    @nn.nowrap
    def diagnostics(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Computes what is to be watched while the prompt is trained; most methods have nothing.

        Args:
            params: the method's parameters by name, as `initialize` returns them.

        Returns:
            Numbers by name. A run writes them with every evaluation.
        """
        del params
        return {}


def declare_parameter(
    module: nn.Module,
    name: str,
    init: Initializer,
    shape: Sequence[int | None],
    axes: Sequence[str],
) -> Float[Array, "..."]:
    """Declares a float32 parameter of a prompt, with a logical axis name for each dimension.

    The names go to the collection `params_axes`, where T5X's partitioner and ours look for them.

    Args:
        module: the module that owns the parameter.
        name: the parameter's name.
        init: draws the initial value; called only when the parameter does not exist yet.
        shape: the parameter's shape.
        axes: one logical axis name per dimension.

    Raises:
        ValueError: if the parameter exists with another shape, or the prompt's width is still open.
    """
    if None in shape:
        raise ValueError(
            f"EMBED_DIM of this {type(module).__name__} is None, and no model has filled it in. "
            "Set --gin.EMBED_DIM to the model's width."
        )
    shape = tuple(shape)
    if module.has_variable("params", name):
        found = jnp.shape(meta.unbox(module.get_variable("params", name)))
        if found != shape:
            raise ValueError(
                f"The prompt parameter {name!r} has shape {found}, but {type(module).__name__} "
                f"declares {shape}. Make PROMPT_LENGTH, EMBED_DIM and the method's own sizes "
                "(BOTTLENECK, hidden_dim) those the parameters were trained with."
            )
        # Flax traces the initializer even of an existing parameter, to compare shapes. A trained
        # prompt must not need its starting point (a file, the embedding table) any more.
        init = nn.initializers.zeros
    return partitioning.param_with_axes(
        name, init, shape, jnp.float32, axes=tuple(axes), module=module
    )


def require_size(module: nn.Module, field: str, setting: str) -> None:
    """Checks that a size of a prompt is a whole number of at least 1.

    Args:
        module: the prompt.
        field: the name of the field to check.
        setting: the gin macro or binding that sets it, for the message.

    Raises:
        ValueError: if it is not.
    """
    value = getattr(module, field)
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(
            f"{setting} is {value!r}, but {type(module).__name__}.{field} must be a whole number "
            f"of at least 1. Give {field}=, or in gin --gin.{setting}=VALUE."
        )
