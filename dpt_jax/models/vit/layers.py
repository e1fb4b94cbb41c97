"""The layers of a vision transformer, with logical axes.

Unlike T5's they have biases, layer norm subtracts the mean, and attention scores are divided by
sqrt(head_dim).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jaxtyping import Array, Float

from dpt_jax.models.activations import activate
from dpt_jax.models.attention import attend
from dpt_jax.models.layers import KeysValues
from dpt_jax.models.vit.config import ViTConfig

# The collection into which attention's weights go where a caller asks for it.
ATTENTION = "attention"


class Linear(nn.Module):
    """An affine map of the last axis.

    Attributes:
      in_features: size of the input's last axis.
      features: size of the output's last axis.
      kernel_axes: logical axis names of `kernel [in_features, features]`; `bias` has the second.
      dtype: dtype in which it is computed.
      kernel_init: draws the kernel; the bias starts at zero.
    """

    in_features: int
    features: int
    kernel_axes: tuple[str, str]
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.xavier_uniform()

    def setup(self):
        self.kernel = param_with_axes(
            "kernel",
            self.kernel_init,
            (self.in_features, self.features),
            jnp.float32,
            axes=self.kernel_axes,
        )
        self.bias = param_with_axes(
            "bias",
            nn.initializers.zeros,
            (self.features,),
            jnp.float32,
            axes=self.kernel_axes[1:],
        )

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        y = jnp.dot(x.astype(self.dtype), self.kernel.astype(self.dtype))
        return y + self.bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer norm with scale and bias; statistics in float32."""

    features: int
    epsilon: float
    dtype: Any = jnp.float32

    def setup(self):
        self.scale, self.bias = (
            param_with_axes(name, init, (self.features,), jnp.float32, axes=("embed",))
            for name, init in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
        )

    def __call__(self, x: Float[Array, "... embed"]) -> Float[Array, "... embed"]:
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (y * self.scale + self.bias).astype(self.dtype)


class PatchEmbedding(nn.Module):
    """Cuts images into patches, row by row, and maps each to a token."""

    config: ViTConfig

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch patches embed"]:
        cfg = self.config
        size, grid = cfg.patch_size, cfg.grid
        shape = (size, size, cfg.channels, cfg.emb_dim)
        # A convolution whose windows do not overlap is a matrix product.
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
        axes = ("patch_height", "patch_width", "channels", "embed")
        kernel = param_with_axes("kernel", init, shape, jnp.float32, axes=axes)
        bias = param_with_axes(
            "bias", nn.initializers.zeros, shape[3:], jnp.float32, axes=("embed",)
        )
        patches = images.astype(cfg.dtype).reshape(-1, grid, size, grid, size, cfg.channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), grid * grid, -1)
        kernel = kernel.reshape(-1, cfg.emb_dim).astype(cfg.dtype)
        return jnp.dot(patches, kernel) + bias.astype(cfg.dtype)


class Attention(nn.Module):
    """Multi-head attention; keys and values are projected apart, so that others can join them."""

    config: ViTConfig

    def setup(self):
        width, dtype = self.config.emb_dim, self.config.dtype
        self.query, self.key, self.value = (
            Linear(width, width, ("embed", "joined_kv"), dtype) for _ in range(3)
        )
        self.out = Linear(width, width, ("joined_kv", "embed"), dtype)

    def _split_heads(self, x: Float[Array, "batch length joined"]):
        x = x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)
        return with_sharding_constraint(x, ("batch", "length", "heads", "kv")).swapaxes(1, 2)

    def keys_and_values(self, x: Float[Array, "batch key embed"]) -> KeysValues:
        """Keys and values of normalized tokens, each `[batch, heads, key, head_dim]`."""
        return self._split_heads(self.key(x)), self._split_heads(self.value(x))

    def __call__(
        self,
        x: Float[Array, "batch query embed"],
        keys: Float[Array, "batch heads key kv"],
        values: Float[Array, "batch heads key kv"],
        kind: str = "tokens",
    ) -> Float[Array, "batch query embed"]:
        """Attends; where the collection `attention` may change, its weights go there as `kind`."""
        queries = self._split_heads(self.query(x)) * self.config.head_dim**-0.5
        if self.is_mutable_collection(ATTENTION) and not self.is_initializing():
            scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys).astype(jnp.float32)
            self.sow(ATTENTION, kind, jax.nn.softmax(scores))
        y = attend(queries, keys, values).swapaxes(1, 2)
        return self.out(y.reshape(*y.shape[:2], -1))


class Mlp(nn.Module):
    """`wo(gelu(wi x))`."""

    config: ViTConfig

    def setup(self):
        cfg = self.config
        self.wi = Linear(cfg.emb_dim, cfg.mlp_dim, ("embed", "mlp"), cfg.dtype)
        self.wo = Linear(cfg.mlp_dim, cfg.emb_dim, ("mlp", "embed"), cfg.dtype)

    def __call__(self, x: Float[Array, "... embed"]) -> Float[Array, "... embed"]:
        gelu = "gelu" if self.config.gelu == "tanh" else "exact_gelu"
        hidden = activate((gelu,), (self.wi(x),))
        return self.wo(with_sharding_constraint(hidden, ("batch", "length", "mlp")))
