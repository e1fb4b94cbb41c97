"""T5X's own T5 with a soft prompt in front of the encoder's embedded input, a prefix, or both."""

import contextlib
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int
from t5x.examples.t5 import layers, network

from dpt_jax.errors import InputError
from dpt_jax.models.injection import PromptedEmbedder, extend_for_prompt
from dpt_jax.models.prefixed import StackPrefix, stack_of
from dpt_jax.t5x.prefixed_attention import with_prefixes

# What T5X's network does whatever `dpt_jax.models.T5Config` says.
_OBEYED = {"remat_policy": ("none",), "attention": ("auto", "plain")}


class PromptedTransformer(network.Transformer):
    """T5X's `Transformer` whose encoder is given a prompted embedder.

    `t5x.models.EncoderDecoderModel` takes it as it takes T5X's own: for training, scoring, beam
    search and sampling. T5X's parameters keep their names; the prompt's own are under `prompt`, as
    in `dpt_jax.models.Transformer`, and a prefix's under `prefix`.

    Attributes:
      config: the network's shape, T5X's `T5Config` or `dpt_jax.models.T5Config`.
      prompt: any prompt of `dpt_jax.prompts`, `[P, D]`; None for a prefix alone.
      prefix: any prefix of `dpt_jax.prefixes`; None for a prompt alone.

    Raises:
      InputError: when a method is called: the prompt has another width than the model, the model
        is a umT5 or to be computed in a way that T5X's network does not have, or a batch is packed.
    """

    prompt: Any = None
    prefix: Any = None

    def setup(self):
        cfg = self.config
        if not isinstance(self.prompt, nn.Module) and not isinstance(self.prefix, nn.Module):
            raise InputError(
                f"PROMPT is {self.prompt!r} and PREFIX is {self.prefix!r}, so that nothing would "
                "be trained. Add a prompts/*.gin or prefixes/*.gin file, after the run file."
            )
        if self.prompt is not None and self.prompt.embed_dim != cfg.emb_dim:
            raise InputError(
                f"The prompt is {self.prompt.embed_dim} wide (EMBED_DIM), the model {cfg.emb_dim} "
                "(T5Config.emb_dim); use the model's own gin file."
            )
        if getattr(cfg, "relpos_bias_per_layer", False):
            raise InputError(
                "T5Config.relpos_bias_per_layer is True (umT5), but T5X's T5 has one position bias "
                "for all layers of a stack. Train umT5 with dpt train, or use another model gin "
                "file."
            )
        for name, obeyed in _OBEYED.items():
            value = getattr(cfg, name, obeyed[0])
            if value not in obeyed:
                raise InputError(
                    f"T5Config.{name} is {value!r}, but T5X's T5 does not read it: it computes as "
                    f"with {obeyed[-1]!r}. Leave --gin.{name.upper()} out, or train with dpt train."
                )
        # T5X's setup would name its own encoder, so the parts are made here, as it makes them.
        self.shared_embedding = layers.Embed(
            num_embeddings=cfg.vocab_size,
            features=cfg.emb_dim,
            dtype=cfg.dtype,
            attend_dtype=jnp.float32,
            embedding_init=nn.initializers.normal(stddev=1.0),
            one_hot=True,
            name="token_embedder",
        )
        embedding: nn.Module = self.shared_embedding
        if self.prompt is not None:
            embedding = self.prompted_embedding = PromptedEmbedder(embedding, self.prompt)
        self.encoder = network.Encoder(config=cfg, shared_embedding=embedding)
        self.decoder = network.Decoder(config=cfg, shared_embedding=self.shared_embedding)

    @property
    def prompt_length(self) -> int:
        """Positions in front of the text, P; 0 without a prompt."""
        return 0 if self.prompt is None else self.prompt.length

    def _with_prefixes(self, *stacks: str) -> Any:
        """A context in which these stacks attend to the prefix."""
        if self.prefix is None:
            return contextlib.nullcontext()
        params = None if self.is_initializing() else self.variables["params"]
        bias = self.prefix.position_bias
        return with_prefixes(
            {
                name: StackPrefix.create(self.prefix(stack_of(name, self.config, params)), bias)
                for name in stacks
                if name in self.prefix.stacks
            }
        )

    def encode(
        self,
        encoder_input_tokens: Int[Array, "batch length"],
        encoder_segment_ids: Any = None,
        enable_dropout: bool = True,
    ) -> Float[Array, "batch prompt+length embed"]:
        """The encoder's output for prompt and text together."""
        _refuse_packing(encoder_segment_ids)
        visible = extend_for_prompt(encoder_input_tokens, self.prompt_length) > 0
        mask = layers.make_attention_mask(visible, visible, dtype=self.config.dtype)
        with self._with_prefixes("encoder"):
            return self.encoder(encoder_input_tokens, mask, deterministic=not enable_dropout)

    def decode(
        self,
        encoded: Float[Array, "batch prompt+length embed"],
        encoder_input_tokens: Int[Array, "batch length"],
        decoder_input_tokens: Int[Array, "batch target"],
        decoder_target_tokens: Int[Array, "batch target"],
        encoder_segment_ids: Any = None,
        **kwargs: Any,
    ) -> Float[Array, "batch target vocab"]:
        """T5X's `Transformer.decode`, its cross-attention seeing the prompt's positions too."""
        _refuse_packing(encoder_segment_ids)
        # T5X only makes the cross-attention's mask from these tokens.
        tokens = extend_for_prompt(encoder_input_tokens, self.prompt_length)
        with self._with_prefixes("decoder", "cross"):
            return super().decode(
                encoded, tokens, decoder_input_tokens, decoder_target_tokens, **kwargs
            )


def _refuse_packing(encoder_segment_ids: Any) -> None:
    if encoder_segment_ids is not None:
        raise InputError(
            "The batch is packed, but the prompt stands once in front of each row, so that only "
            "the first of the examples packed into a row would have it. Set "
            "utils.DatasetConfig.pack = False, as gin_configs/t5x/runs/ does."
        )
