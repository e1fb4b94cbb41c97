"""T5's stacks: encoder and decoder layers, and what they are made of (Raffel et al., 2020)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Bool, Float, Int

from dpt_jax.models import layers
from dpt_jax.models.attention import QueryMask
from dpt_jax.models.config import T5Config
from dpt_jax.models.layers import KeysValues
from dpt_jax.models.prefixed import PositionBias, StackPrefix, attention_inputs, prepend


def _attention(config: T5Config) -> layers.MultiHeadAttention:
    return layers.MultiHeadAttention(
        emb_dim=config.emb_dim,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        dropout_rate=config.dropout_rate,
        dtype=config.dtype,
        float32_logits=config.float32_attention_logits,
        attention=config.attention,
    )


def _mlp(config: T5Config) -> layers.MlpBlock:
    return layers.MlpBlock(
        intermediate_dim=config.mlp_dim,
        activations=config.mlp_activations,
        dropout_rate=config.dropout_rate,
        dtype=config.dtype,
    )


def _relpos_bias(
    config: T5Config, *, bidirectional: bool, layer: bool
) -> layers.RelativePositionBiases | None:
    """The position bias of a layer, or of the stack around it; None where the other has it."""
    if layer != config.relpos_bias_per_layer:
        return None
    return layers.RelativePositionBiases(config.num_heads, bidirectional, config.dtype)


def _residual_dropout(config: T5Config) -> nn.Dropout:
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


def _rematerialized(layer: type[nn.Module], config: T5Config, deterministic: int) -> Any:
    """The layer's class under `config.remat_policy`; parameters and results are the same.

    `deterministic` is that argument's position in `__call__`, `self` counted.
    """
    if config.remat_policy == "none":
        return layer
    policy = None
    if config.remat_policy == "minimal":
        # The products with weights have no batch axis, those inside attention do.
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return nn.remat(layer, policy=policy, static_argnums=(deterministic,))


def _position_biases(
    stack: "Encoder | Decoder", length: int, index: Array | None = None
) -> list[PositionBias]:
    """The position bias of each layer: the stack's one, or in a umT5 the layer's own."""

    def bias_of(module: layers.RelativePositionBiases) -> PositionBias:
        return functools.cache(functools.partial(module, length, index))

    if stack.relpos_bias is not None:
        return [bias_of(stack.relpos_bias)] * len(stack.layers)
    return [bias_of(layer.relpos_bias) for layer in stack.layers]


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each behind a layer norm and a residual connection."""

    config: T5Config

    def setup(self):
        self.pre_attention_layer_norm = layers.LayerNorm(self.config.dtype)
        self.attention = _attention(self.config)
        self.relpos_bias = _relpos_bias(self.config, bidirectional=True, layer=True)
        self.pre_mlp_layer_norm = layers.LayerNorm(self.config.dtype)
        self.mlp = _mlp(self.config)
        self.dropout = _residual_dropout(self.config)

    def __call__(
        self, x, key_mask, bias, deterministic, query_mask, prefix: KeysValues | None = None
    ):
        y = self.pre_attention_layer_norm(x)
        keys, values = prepend(prefix, self.attention.project_memory(y))
        y = self.attention(y, keys, values, key_mask, bias, deterministic, query_mask=query_mask)
        x = x + self.dropout(y, deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        x = x + self.dropout(y, deterministic)
        return with_sharding_constraint(x, ("batch", "length", "embed"))


class Encoder(nn.Module):
    """A stack of encoder layers over whatever `embedder` makes of the tokens."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.relpos_bias = _relpos_bias(cfg, bidirectional=True, layer=False)
        layer = _rematerialized(EncoderLayer, cfg, deterministic=4)
        self.layers = [layer(cfg, name=f"layers_{i}") for i in range(cfg.num_encoder_layers)]
        self.encoder_norm = layers.LayerNorm(cfg.dtype)
        self.dropout = _residual_dropout(cfg)
        self.output_dropout = nn.Dropout(cfg.dropout_rate)

    def __call__(
        self,
        embedded: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch length"],
        deterministic: bool,
        prefix: StackPrefix | None = None,
    ) -> Float[Array, "batch length embed"]:
        """The stack's output for an embedded input, whose real positions `mask` tells."""
        x = self.dropout(embedded, deterministic).astype(self.config.dtype)
        inputs = attention_inputs(mask, _position_biases(self, x.shape[1]), prefix)
        for layer, (key_mask, bias, own) in zip(self.layers, inputs, strict=True):
            # Queries are masked too: the rows of padding do not matter, but then equal T5X's.
            x = layer(x, key_mask, bias, deterministic, mask, own)
        return self.output_dropout(self.encoder_norm(x), deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, and MLP."""

    config: T5Config

    def setup(self):
        self.pre_self_attention_layer_norm = layers.LayerNorm(self.config.dtype)
        self.self_attention = _attention(self.config)
        self.relpos_bias = _relpos_bias(self.config, bidirectional=False, layer=True)
        self.pre_cross_attention_layer_norm = layers.LayerNorm(self.config.dtype)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = layers.LayerNorm(self.config.dtype)
        self.mlp = _mlp(self.config)
        self.dropout = _residual_dropout(self.config)

    def project_encoded(self, encoded, prefix: KeysValues | None = None) -> KeysValues:
        """Keys and values of the cross-attention, for decoding many tokens."""
        return prepend(prefix, self.encoder_decoder_attention.project_memory(encoded))

    def __call__(
        self,
        x,
        encoded,
        self_mask,
        cross_mask,
        bias,
        deterministic,
        *,
        cache: KeysValues | None = None,
        index: Array | None = None,
        projected: KeysValues | None = None,
        prefix: KeysValues | None = None,
        cross_prefix: KeysValues | None = None,
        query_mask: QueryMask | None = None,
    ):
        """One layer; see `Decoder.__call__` for the arguments.

        `cache` and `projected` hold the prefixes already.

        Returns the output and this layer's self-attention keys and values (the updated cache, when
        one was given).
        """
        y = self.pre_self_attention_layer_norm(x)
        keys, values = self.self_attention.project_memory(y)
        if cache is None:
            keys, values = prepend(prefix, (keys, values))
        else:
            keys, values = (
                jnp.asarray(old).at[:, :, index].set(new[:, :, 0])
                for old, new in zip(cache, (keys, values), strict=True)
            )
        y = self.self_attention(
            y,
            keys,
            values,
            self_mask,
            bias,
            deterministic,
            causal=cache is None,
            query_mask=query_mask,
        )
        x = x + self.dropout(y, deterministic)

        y = self._attend_to_encoded(
            self.pre_cross_attention_layer_norm(x),
            encoded,
            cross_mask,
            deterministic,
            projected,
            cross_prefix,
            query_mask,
        )
        x = x + self.dropout(y, deterministic)

        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        x = x + self.dropout(y, deterministic)
        return with_sharding_constraint(x, ("batch", "length", "embed")), (keys, values)

    def _attend_to_encoded(
        self, x, encoded, key_mask, deterministic, projected, prefix, query_mask
    ):
        # Several target sequences may share one encoded input (beams, answer candidates): they
        # become more queries of the same row, and the encoded input is never repeated.
        attention = self.encoder_decoder_attention
        rows, length, width = x.shape
        x = x.reshape(encoded.shape[0], -1, width)
        if query_mask is not None:
            query_mask = query_mask.reshape(encoded.shape[0], -1)
        if projected is None and x.shape[1] < self.config.head_dim:
            y = attention.attend_unprojected(
                x, encoded, key_mask, deterministic, query_mask=query_mask, prefix=prefix
            )
        else:
            keys, values = projected or self.project_encoded(encoded, prefix)
            y = attention(x, keys, values, key_mask, None, deterministic, query_mask=query_mask)
        return y.reshape(rows, length, width)


class Decoder(nn.Module):
    """A stack of decoder layers, for whole targets at once or one token after the other."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.relpos_bias = _relpos_bias(cfg, bidirectional=False, layer=False)
        layer = _rematerialized(DecoderLayer, cfg, deterministic=6)
        self.layers = [layer(cfg, name=f"layers_{i}") for i in range(cfg.num_decoder_layers)]
        self.decoder_norm = layers.LayerNorm(cfg.dtype)
        self.dropout = _residual_dropout(cfg)
        if not cfg.logits_via_embedding:
            self.logits_dense = layers.Dense(
                cfg.emb_dim, cfg.vocab_size, kernel_axes=("embed", "vocab"), dtype=jnp.float32
            )

    def project_encoded(self, encoded, prefix: StackPrefix | None = None) -> list[KeysValues]:
        """Every layer's cross-attention keys and values, the prefix in front."""
        count = len(self.layers)
        own = [None] * count if prefix is None else prefix.of_layers(count)
        return [
            layer.project_encoded(encoded, p) for layer, p in zip(self.layers, own, strict=True)
        ]

    def __call__(
        self,
        embedder: layers.Embed,
        encoded: Float[Array, "batch source embed"],
        tokens: Int[Array, "rows target"],
        self_mask: Bool[Array, "#rows key"],
        cross_mask: Bool[Array, "batch source"],
        deterministic: bool,
        *,
        query_mask: QueryMask | None = None,
        caches: list[KeysValues] | None = None,
        index: Array | None = None,
        projected: list[KeysValues] | None = None,
        prefix: StackPrefix | None = None,
        cross_prefix: StackPrefix | None = None,
    ) -> tuple[Float[Array, "rows target vocab"], list[KeysValues]]:
        """Logits for `tokens`, and every layer's self-attention keys and values.

        Args:
          embedder: the token embedder.
          encoded: the encoder's output.
          tokens: decoder inputs; `rows` is a multiple of `batch`, the rows of one input adjoining.
          self_mask: which target positions are seen, by those that do not come before them.
          cross_mask: which encoded positions are seen.
          deterministic: no dropout.
          query_mask: which of `tokens` are real; None for all.
          caches: a cache of keys and values per layer, `[rows, heads, N + max length, head_dim]`,
            the prefix in front; then `tokens` is `[rows, 1]`.
          index: position of `tokens` when `caches` are given.
          projected: cross-attention keys and values per layer, from `project_encoded`.
          prefix: keys and values in front of self-attention's own.
          cross_prefix: keys and values in front of cross-attention's own.
        """
        cfg = self.config
        x = self.dropout(embedder(tokens), deterministic).astype(cfg.dtype)
        inputs = attention_inputs(
            self_mask, _position_biases(self, self_mask.shape[-1], index), prefix
        )
        cross_inputs = attention_inputs(cross_mask, [None] * len(self.layers), cross_prefix)
        new_caches = []
        for i, layer in enumerate(self.layers):
            own, cross = inputs[i], cross_inputs[i]
            in_front = 0 if own.prefix is None else own.prefix[0].shape[2]
            x, keys_values = layer(
                x,
                encoded,
                own.key_mask,
                cross.key_mask,
                own.bias,
                deterministic,
                cache=caches[i] if caches is not None else None,
                index=None if index is None else in_front + index,
                projected=projected[i] if projected is not None else None,
                prefix=own.prefix,
                cross_prefix=cross.prefix,
                query_mask=query_mask,
            )
            new_caches.append(keys_values)
        x = self.dropout(self.decoder_norm(x), deterministic)
        if cfg.logits_via_embedding:
            # The entries of tied embeddings have unit variance, and so have those of `x` after its
            # norm: unscaled, a logit would have a standard deviation of sqrt(emb_dim).
            logits = embedder.attend(x) / jnp.sqrt(cfg.emb_dim)
        else:
            logits = self.logits_dense(x)
        return logits, new_caches
