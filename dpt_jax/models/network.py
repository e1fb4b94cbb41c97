"""T5's encoder and decoder (Raffel et al., 2020) with T5X's parameter tree."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Bool, Float, Int

from dpt_jax.models import layers
from dpt_jax.models.config import T5Config
from dpt_jax.models.injection import PromptedEmbedder, extend_for_prompt
from dpt_jax.prompts import shape_only

# One layer's keys and values, each [batch, heads, length, head_dim].
KeysValues = tuple[Array, Array]


def _attention(config: T5Config) -> layers.MultiHeadAttention:
    return layers.MultiHeadAttention(
        emb_dim=config.emb_dim,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        dropout_rate=config.dropout_rate,
        dtype=config.dtype,
        float32_logits=config.float32_attention_logits,
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

    def __call__(self, x, mask, bias, deterministic):
        if self.relpos_bias is not None:
            bias = self.relpos_bias(x.shape[1])
        y = self.pre_attention_layer_norm(x)
        keys, values = self.attention.project_memory(y)
        y = self.attention(y, keys, values, mask, bias, deterministic)
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
        mask: Bool[Array, "batch 1 query key"],
        deterministic: bool,
    ) -> Float[Array, "batch length embed"]:
        x = self.dropout(embedded, deterministic).astype(self.config.dtype)
        bias = None if self.relpos_bias is None else self.relpos_bias(x.shape[1])
        for layer in self.layers:
            x = layer(x, mask, bias, deterministic)
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

    def project_encoded(self, encoded) -> KeysValues:
        """Keys and values of the cross-attention, for decoding many tokens."""
        return self.encoder_decoder_attention.project_memory(encoded)

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
    ):
        """One layer; see `Decoder.__call__` for the arguments.

        Returns the output and this layer's self-attention keys and values (the updated cache, when
        one was given).
        """
        y = self.pre_self_attention_layer_norm(x)
        keys, values = self.self_attention.project_memory(y)
        if cache is not None:
            keys, values = (
                jnp.asarray(old).at[:, :, index].set(new[:, :, 0])
                for old, new in zip(cache, (keys, values), strict=True)
            )
        if self.relpos_bias is not None:
            bias = self.relpos_bias(keys.shape[2], index)
        y = self.self_attention(y, keys, values, self_mask, bias, deterministic)
        x = x + self.dropout(y, deterministic)

        y = self._attend_to_encoded(
            self.pre_cross_attention_layer_norm(x), encoded, cross_mask, deterministic, projected
        )
        x = x + self.dropout(y, deterministic)

        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        x = x + self.dropout(y, deterministic)
        return with_sharding_constraint(x, ("batch", "length", "embed")), (keys, values)

    def _attend_to_encoded(self, x, encoded, mask, deterministic, projected):
        # Several target sequences may share one encoded input (beams, answer candidates): they
        # become more queries of the same row, and the encoded input is never repeated.
        attention = self.encoder_decoder_attention
        rows, length, width = x.shape
        x = x.reshape(encoded.shape[0], -1, width)
        if projected is None and x.shape[1] < self.config.head_dim:
            y = attention.attend_unprojected(x, encoded, mask, deterministic)
        else:
            keys, values = projected or attention.project_memory(encoded)
            y = attention(x, keys, values, mask, None, deterministic)
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

    def project_encoded(self, encoded) -> list[KeysValues]:
        """Every layer's cross-attention keys and values."""
        return [layer.project_encoded(encoded) for layer in self.layers]

    def __call__(
        self,
        embedder: layers.Embed,
        encoded: Float[Array, "batch source embed"],
        tokens: Int[Array, "rows target"],
        self_mask: Bool[Array, "#rows 1 query key"],
        cross_mask: Bool[Array, "batch 1 query source"],
        deterministic: bool,
        *,
        caches: list[KeysValues] | None = None,
        index: Array | None = None,
        projected: list[KeysValues] | None = None,
    ) -> tuple[Float[Array, "rows target vocab"], list[KeysValues]]:
        """Logits for `tokens`, and every layer's self-attention keys and values.

        Args:
          embedder: the token embedder.
          encoded: the encoder's output.
          tokens: decoder inputs; `rows` is a multiple of `batch`, the rows of one input adjoining.
          self_mask: which target positions see which.
          cross_mask: which encoded positions are seen; its queries are all target positions of an
            input, `rows / batch * target`, or 1.
          deterministic: no dropout.
          caches: a cache of keys and values per layer, `[rows, heads, max length, head_dim]`; then
            `tokens` is `[rows, 1]`.
          index: position of `tokens` when `caches` are given.
          projected: cross-attention keys and values per layer, from `project_encoded`.
        """
        cfg = self.config
        x = self.dropout(embedder(tokens), deterministic).astype(cfg.dtype)
        bias = None
        if self.relpos_bias is not None:
            length = tokens.shape[1] if caches is None else caches[0][0].shape[2]
            bias = self.relpos_bias(length, index)
        new_caches = []
        for i, layer in enumerate(self.layers):
            x, keys_values = layer(
                x,
                encoded,
                self_mask,
                cross_mask,
                bias,
                deterministic,
                cache=caches[i] if caches is not None else None,
                index=index,
                projected=projected[i] if projected is not None else None,
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


class Transformer(nn.Module):
    """T5, with an optional soft prompt in front of the encoder's embedded input.

    Parameters are T5X's, name by name and shape by shape; a prompt's own are under `prompt`.

    Attributes:
      config: the network's shape.
      prompt: module that gives the soft prompt `[P, D]`, or None for plain T5.
    """

    config: T5Config
    prompt: nn.Module | None = None

    def setup(self):
        cfg = self.config
        self.token_embedder = layers.Embed(cfg.vocab_size, cfg.emb_dim, cfg.dtype)
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.encoder_embedder: nn.Module = self.token_embedder
        if self.prompt is not None:
            self.encoder_embedder = PromptedEmbedder(self.token_embedder, self.prompt)

    @property
    def prompt_length(self) -> int:
        """Positions in front of the text, P; 0 without a prompt."""
        return 0 if self.prompt is None else self.prompt.length

    def source_mask(
        self, encoder_input_tokens: Int[Array, "batch length"]
    ) -> Bool[Array, "batch prompt+length"]:
        """True where the encoder's input holds the prompt or a token."""
        return extend_for_prompt(encoder_input_tokens, self.prompt_length) > 0

    def encode(
        self, encoder_input_tokens: Int[Array, "batch length"], enable_dropout: bool = True
    ) -> Float[Array, "batch prompt+length embed"]:
        """The encoder's output for prompt and text together."""
        valid = self.source_mask(encoder_input_tokens)
        # Queries are masked too: the rows of padding do not matter, but then equal T5X's.
        mask = valid[:, None, :, None] & valid[:, None, None, :]
        embedded = self.encoder_embedder(encoder_input_tokens)
        return self.encoder(embedded, mask, deterministic=not enable_dropout)

    def decode(
        self,
        encoded: Float[Array, "batch prompt+length embed"],
        encoder_input_tokens: Int[Array, "batch length"],
        decoder_input_tokens: Int[Array, "rows target"],
        decoder_target_tokens: Int[Array, "rows target"],
        enable_dropout: bool = True,
    ) -> Float[Array, "rows target vocab"]:
        """Logits for whole targets; `rows` may be a multiple of `batch`, several an input."""
        target_valid = decoder_target_tokens > 0
        causal = jnp.tril(jnp.ones((target_valid.shape[1],) * 2, bool))
        self_mask = causal & target_valid[:, None, :, None] & target_valid[:, None, None, :]
        queries_valid = target_valid.reshape(encoded.shape[0], 1, -1, 1)
        cross_mask = queries_valid & self.source_mask(encoder_input_tokens)[:, None, None, :]
        logits, _ = self.decoder(
            self.token_embedder,
            encoded,
            decoder_input_tokens,
            self_mask,
            cross_mask,
            deterministic=not enable_dropout,
        )
        return logits

    def project_encoded(self, encoded) -> list[KeysValues]:
        """Every decoder layer's cross-attention keys and values, to decode many tokens with."""
        return self.decoder.project_encoded(encoded)

    def decode_step(
        self,
        encoded: Float[Array, "batch prompt+length embed"],
        encoder_input_tokens: Int[Array, "batch length"],
        tokens: Int[Array, "rows"],
        caches: list[KeysValues],
        index: Int[Array, ""],
        projected: list[KeysValues] | None = None,
    ) -> tuple[Float[Array, "rows vocab"], list[KeysValues]]:
        """Logits of the token after `tokens`, which stand at position `index`; and the new caches.

        Args:
          encoded: the encoder's output.
          encoder_input_tokens: the text, for its mask.
          tokens: one token per row; `rows` is a multiple of `batch` (beams adjoining).
          caches: self-attention caches, from `empty_caches` or an earlier step.
          index: position of `tokens`, counted from 0.
          projected: from `project_encoded`, where more tokens will be decoded than a head is wide.
        """
        length = caches[0][0].shape[2]
        self_mask = (jnp.arange(length) <= index)[None, None, None, :]
        cross_mask = self.source_mask(encoder_input_tokens)[:, None, None, :]
        logits, caches = self.decoder(
            self.token_embedder,
            encoded,
            tokens[:, None],
            self_mask,
            cross_mask,
            deterministic=True,
            caches=caches,
            index=index,
            projected=projected,
        )
        return logits[:, 0], caches

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "batch length"],
        decoder_input_tokens: Int[Array, "batch target"],
        decoder_target_tokens: Int[Array, "batch target"],
        *,
        enable_dropout: bool = True,
    ) -> Float[Array, "batch target vocab"]:
        """Logits for every target position, float32.

        Args:
          encoder_input_tokens: source token ids, 0 is padding.
          decoder_input_tokens: the targets shifted right by one, starting with 0.
          decoder_target_tokens: the targets, 0 is padding; used for masks only.
          enable_dropout: apply dropout (needs `rngs={"dropout": key}`).
        """
        encoded = self.encode(encoder_input_tokens, enable_dropout)
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            enable_dropout,
        )


def empty_caches(config: T5Config, rows: int, max_length: int) -> list[KeysValues]:
    """Zeroed self-attention caches for `Transformer.decode_step`, a pair per decoder layer."""
    shape = (rows, config.num_heads, max_length, config.head_dim)
    zeros: Any = jnp.zeros(shape, config.dtype)
    return [(zeros, zeros) for _ in range(config.num_decoder_layers)]


def abstract_variables(model: Transformer) -> Any:
    """Shapes and logical axes of the model's variables, without computing any."""
    if model.prompt is not None:
        # Initializers may read files or the embedding table, which shapes do not need.
        model = model.clone(prompt=shape_only(model.prompt))
    tokens = jnp.zeros((1, 8), jnp.int32)
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)
    )
