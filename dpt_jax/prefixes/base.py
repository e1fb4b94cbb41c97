"""What every prefix is: a Flax module that gives the layers of a stack extra keys and values."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float

from dpt_jax.prompts import Initializer, declare_parameter, require_size, shape_only

KeysValues = tuple[Array, Array]
"""Keys and values, each float32 `[layers, N, heads, kv]`."""

STACKS = ("encoder", "decoder", "cross")
"""The encoder's self-attention, the decoder's, and the decoder's attention to what is encoded."""

LAYERS = ("all", "first")
POSITION_BIASES = ("none", "front")


class T5Shape(Protocol):
    """What a prefix has to know of a T5; `dpt_jax.models.T5Config` and T5X's own have it."""

    emb_dim: int
    num_heads: int
    head_dim: int
    num_encoder_layers: int
    num_decoder_layers: int


@dataclasses.dataclass(frozen=True)
class Stack:
    """The attention layers that a prefix acts on.

    Attributes:
        name: one of `STACKS`.
        num_layers: how many layers get keys and values, from the first.
        num_heads: heads, H.
        head_dim: width of a head, kv.
        embed_dim: width of the residual stream, D.
        project: takes rows `[layers, N, D]` through each layer's own frozen key and value
            projections; before them, where its second argument is true, through the norm that the
            layer's real keys have come through.
    """

    name: str
    num_layers: int
    num_heads: int
    head_dim: int
    embed_dim: int
    project: Callable[[Array, bool], KeysValues]

    @property
    def joined_dim(self) -> int:
        """Numbers in a token's key, H * kv; its value has as many."""
        return self.num_heads * self.head_dim


def stacks_of(
    shape: T5Shape, project: Callable[[str, Array, bool], KeysValues] | None = None
) -> dict[str, Stack]:
    """The stacks of a T5, by name.

    Args:
        shape: the T5's sizes.
        project: `Stack.project` with the stack's name in front. None gives zeros, where shapes are
            all that is asked for.
    """

    def zeros(name: str, rows: Array, normalize: bool) -> KeysValues:
        del name, normalize
        keys = jnp.zeros((*rows.shape[:2], shape.num_heads, shape.head_dim))
        return keys, keys

    encoder, decoder = shape.num_encoder_layers, shape.num_decoder_layers
    return {
        name: Stack(
            name,
            layers,
            shape.num_heads,
            shape.head_dim,
            shape.emb_dim,
            functools.partial(project or zeros, name),
        )
        for name, layers in zip(STACKS, (encoder, decoder, decoder), strict=True)
    }


class Prefix(nn.Module):
    """Learned keys and values in front of a layer's own, N for each layer of each stack.

    A method subclasses this, adds its own sizes and initializers as fields, and writes
    `keys_and_values`; `free.py` is the shortest complete example. Li and Liang, "Prefix-Tuning",
    ACL 2021.

    Attributes:
        length: N, the number of prefix tokens (gin macro `PREFIX_LENGTH`).
        stacks: where the prefix acts, some of "encoder", "decoder" (their self-attention) and
            "cross", the decoder's attention to the encoder's output (gin macro `PREFIX_STACKS`).
        layers: "all" layers of these stacks, or the "first" alone (gin macro `PREFIX_LAYERS`).
        position_bias: T5's relative position bias on the prefix's columns of self-attention. "none"
            adds nothing: a prefix has no place in the text, and every query sees it alike. With
            "front" the prefix stands before the first token, as a soft prompt does; this is what
            PEFT computes in the decoder. Biases between tokens are the same either way.
            Cross-attention has no position bias.

    Raises:
        ValueError: at construction, for a size that is not a whole number of at least 1, an unknown
            stack, or an unknown choice of `layers` or `position_bias`.
    """

    length: int
    stacks: tuple[str, ...] = ("encoder",)
    layers: str = "all"
    position_bias: str = "none"

    def __post_init__(self):
        require_size(self, "length", "PREFIX_LENGTH")
        # A single name is a sequence of letters; gin hands over lists.
        named = (self.stacks,) if isinstance(self.stacks, str) else self.stacks
        if not isinstance(named, Collection) or not named:
            raise ValueError(
                f"PREFIX_STACKS is {named!r}; name at least one of {', '.join(STACKS)}. "
                "Give stacks=, or in gin --gin.PREFIX_STACKS=VALUE."
            )
        object.__setattr__(self, "stacks", tuple(s for s in STACKS if s in named))
        if unknown := [name for name in named if name not in STACKS]:
            raise ValueError(
                f"PREFIX_STACKS names {unknown[0]!r}; there are {', '.join(STACKS)}. "
                "Give stacks=, or in gin --gin.PREFIX_STACKS=VALUE."
            )
        method = f"prefixes.{type(self).__name__}"
        _require_choice("layers", "PREFIX_LAYERS", self.layers, LAYERS)
        _require_choice(
            "position_bias", f"{method}.position_bias", self.position_bias, POSITION_BIASES
        )
        super().__post_init__()

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Computes a stack's keys and values from the module's parameters.

        Parameters' names begin with the stack's, as `encoder_A` does.

        Returns:
            Keys and values, each float32 `[layers, N, heads, kv]`, `layers` being
            `stack.num_layers`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define keys_and_values.")

    @nn.compact
    def __call__(self, stack: Stack) -> KeysValues:
        """Returns what `keys_and_values` gives for one of `stacks`, or for its first layer."""
        if self.layers == "first":
            stack = dataclasses.replace(stack, num_layers=1)
        return self.keys_and_values(stack)

    @nn.nowrap
    def parameter_count(self, shape: T5Shape) -> int:
        """Returns how many numbers the method trains on a T5 of that shape.

        Nothing is allocated, and no initializer is called (see `shape_only`).
        """
        shapes = jax.eval_shape(
            lambda key: shape_only(self).initialize(key, shape), jax.random.key(0)
        )
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    @nn.nowrap
    def initialize(self, rng: jax.Array, shape: T5Shape) -> dict[str, Any]:
        """Draws the initial parameters.

        Args:
            rng: a JAX random key.
            shape: the T5's sizes.

        Returns:
            The method's parameters by name, float32.

        Raises:
            ValueError: if an initializer is unbound (see `dpt_jax.prompts.bind_vocabulary`) or
                cannot give the shape that is wanted.
        """

        def all_stacks(module: nn.Module) -> None:
            known = stacks_of(shape)
            for name in self.stacks:
                module(known[name])

        init = nn.init(all_stacks, self.clone(parent=None))
        return dict(init(rng)["params"])

    def declare(
        self,
        stack: Stack,
        name: str,
        init: Initializer | Mapping[str, Initializer],
        shape: tuple[int, ...],
        *axes: str,
    ) -> Float[Array, "..."]:
        """Declares a float32 parameter of a stack, named `<stack>_<name>`.

        Args:
            stack: the stack it belongs to.
            name: its name.
            init: draws the initial value; a mapping has one for each stack.
            shape: its shape.
            *axes: a logical axis name for each dimension.
        """
        if isinstance(init, Mapping):
            init = init[stack.name]
        return declare_parameter(self, f"{stack.name}_{name}", init, shape, axes)


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draws kernels `[..., in, out]` from ±1/sqrt(in), PyTorch's default for a linear layer."""
    limit = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def linear(
    module: Prefix,
    stack: Stack,
    name: str,
    x: Float[Array, "*layers N in"],
    features: int,
    kernel_init: Initializer,
    *axes: str,
) -> Float[Array, "*layers N out"]:
    """`x @ kernel + bias` with parameters of its own, one layer beside the other.

    Args:
        module: the prefix that owns the parameters.
        stack: the stack they belong to.
        name: their names are `<stack>_<name>_kernel` and `<stack>_<name>_bias`.
        x: the input; an axis of layers in front is one of the parameters, too.
        features: width of the output.
        kernel_init: draws `kernel [*layers, in, out]`. The bias starts uniform in ±1/sqrt(in),
            PyTorch's default.
        *axes: logical axis names of the kernel.
    """
    *layers, _, width = x.shape
    kernel = module.declare(stack, f"{name}_kernel", kernel_init, (*layers, width, features), *axes)
    limit = width**-0.5

    def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    bias = module.declare(
        stack, f"{name}_bias", bias_init, (*layers, features), *axes[:-2], axes[-1]
    )
    # Accelerators multiply float32 in reduced precision by default; the product is tiny, and an
    # exported prefix should equal the trained one.
    return jnp.matmul(x, kernel, precision=Precision.HIGHEST) + bias[..., None, :]


def split_heads(joined: Float[Array, "... joined"], stack: Stack) -> Float[Array, "... heads kv"]:
    """Splits the joined keys or values of all heads."""
    return joined.reshape(*joined.shape[:-1], stack.num_heads, stack.head_dim)


def split_keys_values(joined: Float[Array, "... twice_joined"], stack: Stack) -> KeysValues:
    """Splits a last axis of keys and, after them, values, and each of them into heads."""
    keys, values = jnp.split(joined, 2, axis=-1)
    return split_heads(keys, stack), split_heads(values, stack)


def _require_choice(field: str, setting: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{setting} is {value!r}; it must be one of {', '.join(choices)}. Give {field}=, or in "
            f"gin --gin.{setting}=VALUE."
        )
