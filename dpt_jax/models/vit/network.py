"""The vision transformer, with prompts and prefixes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jaxtyping import Array, Float

from dpt_jax.memo import memoized
from dpt_jax.models.layers import KeysValues
from dpt_jax.models.prefixed import StackPrefix, prepend
from dpt_jax.models.vit.config import ViTConfig
from dpt_jax.models.vit.layers import Attention, LayerNorm, Linear, Mlp, PatchEmbedding
from dpt_jax.models.vit.prompts import LayerPrompts
from dpt_jax.prefixes import Prefix, Stack
from dpt_jax.prompts import SoftPrompt, shape_only

Tokens = Float[Array, "batch length embed"]


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each behind a layer norm and inside a residual connection."""

    config: ViTConfig

    def setup(self):
        cfg = self.config
        self.pre_attention_layer_norm = LayerNorm(cfg.emb_dim, cfg.epsilon, cfg.dtype)
        self.attention = Attention(cfg)
        self.pre_mlp_layer_norm = LayerNorm(cfg.emb_dim, cfg.epsilon, cfg.dtype)
        self.mlp = Mlp(cfg)

    def project_rows(self, rows: Float[Array, "N embed"], normalize: bool) -> tuple[Array, Array]:
        """Keys and values of a prefix's rows, each `[N, heads, head_dim]`."""
        rows = self.pre_attention_layer_norm(rows) if normalize else rows
        keys, values = self.attention.keys_and_values(rows[None])
        return keys[0].swapaxes(0, 1), values[0].swapaxes(0, 1)

    def __call__(
        self,
        x: Tokens,
        seen_alone: Tokens | None,
        hidden: Tokens | None,
        prefix: KeysValues | None,
        cls_alone: bool,
    ) -> tuple[Tokens, Tokens | None]:
        """The layer's output for the tokens, and for prompts that they do not see.

        Args:
          x: the tokens.
          seen_alone: prompts whose own output nothing reads: keys and values, and no queries.
          hidden: prompts that the tokens do not see.
          prefix: keys and values in front of the layer's own.
          cls_alone: of the tokens' outputs, only the first is wanted.
        """
        normalized = self.pre_attention_layer_norm(x)
        seen = self.attention.keys_and_values(normalized)
        if seen_alone is not None:
            prompts = self.pre_attention_layer_norm(seen_alone)
            seen = prepend(self.attention.keys_and_values(prompts), seen)
        seen = prepend(prefix, seen)
        if cls_alone:
            x, normalized = x[:, :1], normalized[:, :1]
        x = self._rest(x, self.attention(normalized, *seen))
        if hidden is not None:
            asking = self.pre_attention_layer_norm(hidden)
            hidden = self._rest(hidden, self.attention(asking, *seen, kind="hidden"))
        return x, hidden

    def _rest(self, x: Tokens, attended: Tokens) -> Tokens:
        x = x + attended
        x = x + self.mlp(self.pre_mlp_layer_norm(x))
        return with_sharding_constraint(x, ("batch", "length", "embed"))


class Encoder(nn.Module):
    """A stack of layers, and the norm behind it."""

    config: ViTConfig

    def setup(self):
        cfg, layer = self.config, EncoderLayer
        if cfg.remat_policy != "none":
            keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            policy = keep if cfg.remat_policy == "minimal" else None
            layer = nn.remat(layer, policy=policy, static_argnums=(5,))  # type: ignore[assignment]
        self.layers = [layer(cfg) for _ in range(cfg.num_layers)]
        self.encoder_norm = LayerNorm(cfg.emb_dim, cfg.epsilon, cfg.dtype)

    def project_rows(
        self, rows: Float[Array, "layers N embed"], normalize: bool
    ) -> tuple[Array, Array]:
        """See `dpt_jax.prefixes.Stack.project`."""
        projected = [
            layer.project_rows(row, normalize)
            for layer, row in zip(self.layers, rows, strict=False)
        ]
        keys, values = (jnp.stack(part) for part in zip(*projected, strict=True))
        return keys, values

    def __call__(
        self,
        x: Tokens,
        prompts: Float[Array, "layers batch P embed"] | None,
        hidden: bool,
        prefix: StackPrefix | None,
        cls_alone: bool,
    ) -> tuple[Tokens, Tokens | None]:
        """Normalized outputs of the tokens, and of hidden prompts.

        Args:
          x: CLS and patches, embedded.
          prompts: the prompts of the first layers. They stand between CLS and patches. Those of a
            later layer take the place of what the layer before made of its own.
          hidden: the tokens do not see the prompts. These ask, and a later layer's are added to
            what they carry, since nothing else carries what they have found.
          prefix: keys and values in front of the layers' own.
          cls_alone: of the tokens' outputs only that of CLS is wanted. What it does not depend on
            is not computed: the last layer asks for CLS alone, and prompts that the next layer
            replaces do not ask at all.
        """
        layers = len(self.layers)
        own = prefix.of_layers(layers) if prefix else [None] * layers
        asking: Tokens | None = None
        length, count = 0, 0 if prompts is None else len(prompts)
        for i, layer in enumerate(self.layers):
            last, seen_alone = i + 1 == layers, None
            if prompts is not None and i < count:
                if hidden:
                    asking = prompts[i] if asking is None else asking + prompts[i]
                elif cls_alone and (last or i + 1 < count):
                    seen_alone = prompts[i]
                else:
                    x = jnp.concatenate([x[:, :1], prompts[i], x[:, 1 + length :]], axis=1)
                    length = prompts.shape[2]
            x, asking = layer(x, seen_alone, asking, own[i], cls_alone and last)
        return self.encoder_norm(x), None if asking is None else self.encoder_norm(asking)


class VisionTransformer(nn.Module):
    """A ViT with a linear head on CLS, and optionally prompts and a prefix.

    A prompt's parameters are under `prompt`, a prefix's under `prefix`, the head's under `head`.

    Attributes:
      config: the network's shape.
      prompt: a `SoftPrompt` for the input of the first layer (Jia et al., "Visual Prompt Tuning",
        ECCV 2022: VPT-shallow), or `LayerPrompts` for every layer (VPT-deep).
      hidden: the prompts are not among the keys that CLS and patches see, whose outputs then are
        those without prompts, bit for bit (Oymak et al., ICML 2023, section 2.1, in our reading:
        prompts ask, and are not asked). A second head, `prompt_head`, reads the mean of what they
        have found, and its output is added.
      prefix: keys and values in front of the layers' own; of its stacks a ViT has "encoder".
      prompt_dropout: rate of dropout on prompts, and on a prefix's keys and values.
    """

    config: ViTConfig
    prompt: SoftPrompt | LayerPrompts | None = None
    hidden: bool = False
    prefix: Prefix | None = None
    prompt_dropout: float = 0.0

    def setup(self):
        cfg = self.config
        self.patch_embedding = PatchEmbedding(cfg)
        self.cls_token = param_with_axes(
            "cls_token", nn.initializers.zeros, (cfg.emb_dim,), jnp.float32, axes=("embed",)
        )
        self.position_embedding = param_with_axes(
            "position_embedding",
            nn.initializers.normal(0.02),
            (1 + cfg.num_patches, cfg.emb_dim),
            jnp.float32,
            axes=("length", "embed"),
        )
        self.encoder = Encoder(cfg)
        self.dropout = nn.Dropout(self.prompt_dropout)
        if cfg.num_classes:
            zeros = nn.initializers.zeros
            shape = (cfg.emb_dim, cfg.num_classes, ("embed", "classes"))
            self.head = Linear(*shape, kernel_init=zeros)
            if self.hidden:
                # Else neither prompts nor this head would have a gradient at the start.
                drawn = nn.initializers.lecun_normal()
                self.prompt_head = Linear(*shape, kernel_init=drawn)

    def keys_and_values(self, name: str) -> tuple[Array, Array]:
        """What the prefix computes for the stack `name`; see `Prefix.keys_and_values`."""
        assert self.prefix is not None
        cfg = self.config
        sizes = (cfg.num_layers, cfg.num_heads, cfg.head_dim, cfg.emb_dim)
        return self.prefix(Stack(name, *sizes, self.encoder.project_rows))

    def _prefix(self, batch: int, deterministic: bool) -> StackPrefix | None:
        if self.prefix is None:
            return None
        keys, values = self.keys_and_values("encoder")
        if self.prompt_dropout and not deterministic:
            # Drawn for each image.
            keys, values = (
                self.dropout(jnp.repeat(x[:, None], batch, axis=1), deterministic)
                for x in (keys, values)
            )
        return StackPrefix.create((keys, values), "none")

    def _prompts(self, batch: int, deterministic: bool) -> Array | None:
        if self.prompt is None:
            return None
        prompts: Any = self.prompt()
        prompts = prompts.reshape(-1, 1, *prompts.shape[-2:]).astype(self.config.dtype)
        prompts = jnp.broadcast_to(prompts, (len(prompts), batch, *prompts.shape[2:]))
        return self.dropout(prompts, deterministic)

    def encode(
        self,
        images: Float[Array, "batch height width channels"],
        enable_dropout: bool = False,
        cls_alone: bool = False,
    ) -> tuple[Tokens, Tokens | None]:
        """Normalized outputs of the last layer.

        Args:
          images: normalized pixels.
          enable_dropout: apply dropout to prompts and prefix (needs `rngs={"dropout": key}`).
          cls_alone: compute no more than the output of CLS, and of hidden prompts, depends on.

        Returns:
          Those of CLS and, without `cls_alone`, of prompts that the others see and of the patches,
          in that order; and those of hidden prompts.
        """
        dtype = self.config.dtype
        patches = self.patch_embedding(images)
        positions = self.position_embedding.astype(dtype)
        cls = self.cls_token.astype(dtype) + positions[0]
        cls = jnp.broadcast_to(cls, (len(images), 1, *cls.shape))
        x = jnp.concatenate([cls, patches + positions[1:]], axis=1)
        x = with_sharding_constraint(x, ("batch", "length", "embed"))
        deterministic = not enable_dropout
        prompts = self._prompts(len(images), deterministic)
        prefix = self._prefix(len(images), deterministic)
        return self.encoder(x, prompts, self.hidden, prefix, cls_alone)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        enable_dropout: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Logits, float32; without a head, the normalized output of CLS."""
        tokens, found = self.encode(images, enable_dropout, cls_alone=True)
        if not self.config.num_classes:
            return tokens[:, 0]
        logits = self.head(tokens[:, 0].astype(jnp.float32))
        if found is not None:
            logits = logits + self.prompt_head(jnp.mean(found.astype(jnp.float32), axis=1))
        return logits


def abstract_variables(model: VisionTransformer) -> Any:
    """Shapes and logical axes of the model's variables, without computing any.

    They are traced once for equal models: what is returned must not be changed.
    """
    if isinstance(model.prompt, LayerPrompts):
        model = model.clone(prompt=model.prompt.without_initializers())
    elif model.prompt is not None:
        model = model.clone(prompt=shape_only(model.prompt))
    if model.prefix is not None:
        model = model.clone(prefix=shape_only(model.prefix))
    return _traced_variables(model)


# As for a T5.
@memoized
def _traced_variables(model: VisionTransformer) -> Any:
    cfg = model.config
    images = jax.ShapeDtypeStruct((1, cfg.image_size, cfg.image_size, cfg.channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)
