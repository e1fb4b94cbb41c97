"""T5 (Raffel et al., 2020) with T5X's parameter tree, a prompt and a prefix where there are any."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from dpt_jax.models import layers
from dpt_jax.models.config import T5Config
from dpt_jax.models.injection import PromptedEmbedder, extend_for_prompt
from dpt_jax.models.layers import KeysValues
from dpt_jax.models.prefixed import StackPrefix, prepend, stack_of
from dpt_jax.models.stacks import Decoder, Encoder
from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import shape_only
from dpt_jax.tensors import Params


class Transformer(nn.Module):
    """T5, with an optional soft prompt in front of the encoder's embedded input.

    Parameters are T5X's, name by name and shape by shape; a prompt's own are under `prompt`, a
    prefix's under `prefix`.

    Attributes:
      config: the network's shape.
      prompt: module that gives the soft prompt `[P, D]`, or None for plain T5.
      prefix: module that gives keys and values in front of the layers' own, or None.
    """

    config: T5Config
    prompt: nn.Module | None = None
    prefix: Prefix | None = None

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

    def compute_prefix(self, name: str) -> StackPrefix | None:
        """The prefix of a stack, one of `dpt_jax.prefixes.STACKS`; None where there is none."""
        if self.prefix is None or name not in self.prefix.stacks:
            return None
        return StackPrefix.create(self.keys_and_values(name), self.prefix.position_bias)

    def keys_and_values(self, name: str) -> tuple[Array, Array]:
        """What the prefix computes for a stack that it acts on; see `Prefix.keys_and_values`."""
        assert self.prefix is not None
        # While parameters are made, those that rows are projected by may not be there yet.
        params = None if self.is_initializing() else self.variables["params"]
        return self.prefix(stack_of(name, self.config, params))

    def source_mask(
        self, encoder_input_tokens: Int[Array, "batch length"]
    ) -> Bool[Array, "batch prompt+length"]:
        """True where the encoder's input holds the prompt or a token."""
        return extend_for_prompt(encoder_input_tokens, self.prompt_length) > 0

    def encode(
        self, encoder_input_tokens: Int[Array, "batch length"], enable_dropout: bool = True
    ) -> Float[Array, "batch prompt+length embed"]:
        """The encoder's output for prompt and text together.

        Args:
          encoder_input_tokens: the text, int32, 0 where there is none.
          enable_dropout: whether dropout is applied; it then needs an rng `dropout`.
        """
        mask = self.source_mask(encoder_input_tokens)
        embedded = self.encoder_embedder(encoder_input_tokens)
        prefix = self.compute_prefix("encoder")
        return self.encoder(embedded, mask, not enable_dropout, prefix)

    def decode(
        self,
        encoded: Float[Array, "batch prompt+length embed"],
        encoder_input_tokens: Int[Array, "batch length"],
        decoder_input_tokens: Int[Array, "rows target"],
        decoder_target_tokens: Int[Array, "rows target"],
        enable_dropout: bool = True,
    ) -> Float[Array, "rows target vocab"]:
        """Logits for whole targets; `rows` may be a multiple of `batch`, several an input.

        Args:
          encoded: the encoder's output.
          encoder_input_tokens: the text, for its mask.
          decoder_input_tokens: the targets, shifted by one to the right.
          decoder_target_tokens: the targets, for their mask.
          enable_dropout: as in `encode`.
        """
        target_valid = decoder_target_tokens > 0
        logits, _ = self.decoder(
            self.token_embedder,
            encoded,
            decoder_input_tokens,
            target_valid,
            self.source_mask(encoder_input_tokens),
            deterministic=not enable_dropout,
            query_mask=target_valid,
            prefix=self.compute_prefix("decoder"),
            cross_prefix=self.compute_prefix("cross"),
        )
        return logits

    def project_encoded(self, encoded) -> list[KeysValues]:
        """Every decoder layer's cross-attention keys and values, to decode many tokens with.

        Args:
          encoded: the encoder's output, `[batch, prompt + length, embed]`.

        Returns:
          A pair for each layer, each `[batch, heads, prompt + length, head_dim]`.
        """
        return self.decoder.project_encoded(encoded, self.compute_prefix("cross"))

    def empty_caches(self, rows: int, max_length: int) -> list[KeysValues]:
        """Caches for `decode_step`, a pair per decoder layer: the prefix, and zeros behind it.

        Args:
          rows: sequences to decode.
          max_length: tokens to decode at most.

        Returns:
          A pair for each layer, each `[rows, heads, max_length, head_dim]` behind a prefix.
        """
        cfg = self.config
        zeros: Any = jnp.zeros((rows, cfg.num_heads, max_length, cfg.head_dim), cfg.dtype)
        prefix = self.compute_prefix("decoder")
        layers = cfg.num_decoder_layers
        own = [None] * layers if prefix is None else prefix.of_layers(layers)
        return [prepend(layer, (zeros, zeros)) for layer in own]

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

        Returns:
          Logits, and caches `[rows, heads, max_length, head_dim]` that hold the token, too.
        """
        prefix = self.compute_prefix("decoder")
        length = caches[0][0].shape[2] - (0 if prefix is None else prefix.length)
        self_mask = (jnp.arange(length) <= index)[None]
        logits, caches = self.decoder(
            self.token_embedder,
            encoded,
            tokens[:, None],
            self_mask,
            self.source_mask(encoder_input_tokens),
            deterministic=True,
            caches=caches,
            index=index,
            projected=projected,
            prefix=prefix,
            cross_prefix=self.compute_prefix("cross"),
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


def fold_prefix(model: Any, params: Params) -> dict[str, Array]:
    """The plain arrays that a prefix's parameters stand for.

    Args:
      model: the network, with its prefix: a `Transformer`, or a `vit.VisionTransformer`.
      params: its parameters; the frozen ones are read where the prefix goes through them.

    Returns:
      The parameters of `dpt_jax.prefixes.as_free(model.prefix)`, which acts on the model in the
      same way: `<stack>_keys` and `<stack>_values`, float32 `[layers, N, heads, head_dim]`.
    """
    assert model.prefix is not None

    folded: dict[str, Array] = {}
    for stack in model.prefix.stacks:
        pair: Any = model.apply({"params": params}, stack, method="keys_and_values")
        for name, array in zip(("keys", "values"), pair, strict=True):
            folded[f"{stack}_{name}"] = array.astype(jnp.float32)
    return folded


def abstract_variables(model: Transformer) -> Any:
    """Shapes and logical axes of the model's variables, without computing any.

    They are traced once for equal models: what is returned must not be changed.
    """
    # Initializers may read files or the embedding table, which shapes do not need.
    if model.prompt is not None:
        model = model.clone(prompt=shape_only(model.prompt))
    if model.prefix is not None:
        model = model.clone(prefix=shape_only(model.prefix))
    return _traced_variables(model)


# A run asks for those of one model several times, a search for its best mesh again and again.
@functools.lru_cache(maxsize=16)
def _traced_variables(model: Transformer) -> Any:
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    init = functools.partial(model.init, enable_dropout=False)
    return jax.eval_shape(init, jax.random.key(0), tokens, tokens, tokens)
