"""Hyperparameters of a T5 encoder-decoder, under T5X's names."""

import dataclasses
from typing import Any

import jax.numpy as jnp

# T5X's names. `none` keeps everything that the backward pass reads; `minimal` keeps the products
# with the weights and computes the attention scores again, which are most of a layer's memory and
# little of its work; `full` keeps a layer's input alone and computes the whole layer again.
REMAT_POLICIES = ("none", "minimal", "full")
# What may compute attention: `auto` what suits the platform and the size; `plain` holds all scores;
# `blocked` holds those of one head, which saves memory and not time; `pallas` is a TPU's kernels
# and `cudnn` a GPU's, which hold none.
ATTENTIONS = ("auto", "plain", "blocked", "pallas", "cudnn")
# What an MLP may be made of; `layers` has the functions.
ACTIVATIONS = ("relu", "gelu", "silu", "linear")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape and numerics of a T5; field names and defaults are those of T5X's `T5Config`.

    T5 1.0 is `mlp_activations=("relu",), logits_via_embedding=True`; T5 1.1 and what descends from
    it (LM-adapted, Flan, mT5, ByT5) is `mlp_activations=("gelu", "linear"),
    logits_via_embedding=False`. umT5 is T5 1.1 with `relpos_bias_per_layer=True`.

    Attributes:
      vocab_size: rows of the embedding table (T5 pads its 32,100 pieces to 32,128).
      dtype: dtype of the activations, `float32` or `bfloat16`; a name is accepted too.
      emb_dim: width of the residual stream, D.
      num_heads: attention heads, H.
      num_encoder_layers: encoder layers.
      num_decoder_layers: decoder layers.
      head_dim: width of one head; `num_heads * head_dim` need not equal `emb_dim`.
      mlp_dim: width of the MLP's hidden layer.
      mlp_activations: one activation gives T5 1.0's MLP, two give the gated MLP of T5 1.1.
      dropout_rate: dropout probability, applied only where `enable_dropout=True`.
      logits_via_embedding: tie the output projection to the embedding table.
      relpos_bias_per_layer: every layer has a relative position bias of its own (umT5), where the
        layers of a stack otherwise share one.
      float32_attention_logits: compute attention scores in float32 whatever `dtype` is.
      attention: what computes attention, one of `ATTENTIONS`; a choice between memory and time.
      remat_policy: what a layer keeps for the backward pass, one of `REMAT_POLICIES`; a choice
        between memory and time that changes no result.
    """

    vocab_size: int
    dtype: Any = jnp.float32
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: tuple[str, ...] = ("relu",)
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    relpos_bias_per_layer: bool = False
    float32_attention_logits: bool = False
    attention: str = "auto"
    remat_policy: str = "none"

    def __post_init__(self):
        # Flax hashes module fields, and gin and JSON hand over lists.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        try:
            object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        except TypeError as e:
            raise ValueError(
                f"T5Config.dtype is {self.dtype!r}; it must be 'float32' or 'bfloat16'. Set "
                "--gin.DTYPE."
            ) from e
        sizes = (
            "vocab_size emb_dim num_heads num_encoder_layers num_decoder_layers head_dim mlp_dim"
        )
        for name in sizes.split():
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"T5Config.{name} must be a positive integer, not {value!r}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool):
                raise ValueError(f"T5Config.{field.name} must be True or False, not {value!r}.")
        number = isinstance(self.dropout_rate, int | float)
        if not number or not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(
                f"T5Config.dropout_rate is {self.dropout_rate!r}, outside [0, 1); set DROPOUT_RATE."
            )
        known = all(activation in ACTIVATIONS for activation in self.mlp_activations)
        if not known or len(self.mlp_activations) not in (1, 2):
            raise ValueError(
                "T5Config.mlp_activations takes one activation (T5 1.0) or two (gated, T5 1.1) of "
                f"{', '.join(ACTIVATIONS)}, not {self.mlp_activations!r}."
            )
        if self.remat_policy not in REMAT_POLICIES:
            raise ValueError(
                f"T5Config.remat_policy is {self.remat_policy!r}; it must be one of "
                f"{', '.join(REMAT_POLICIES)}. Set REMAT_POLICY."
            )
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"T5Config.attention is {self.attention!r}; it must be one of "
                f"{', '.join(ATTENTIONS)}. Set ATTENTION."
            )
        if self.dtype not in (jnp.float32, jnp.bfloat16):
            raise ValueError(
                f"T5Config.dtype is {self.dtype.name!r}; it must be 'float32' or 'bfloat16'. Set "
                "--gin.DTYPE."
            )
