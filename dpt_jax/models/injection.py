"""Where the soft prompt enters the encoder.

T5's encoder takes its embedder as a module and only calls it. Handing it an embedder that puts the
prompt in front of the embedded tokens is therefore all the injection there is: the encoder, ours or
T5X's own, is not changed, and its relative position bias runs over prompt and text together
(Lester et al., 2021, section 2). What is left to do elsewhere is to lengthen the token masks.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int


class PromptedEmbedder(nn.Module):
    """Embeds tokens and puts the soft prompt in front of them.

    Attributes:
      embedder: module that maps tokens `[batch, length]` to `[batch, length, embed]`.
      prompt: module whose call without arguments gives the prompt, `[prompt, embed]`, or one prompt
        per row, `[batch, prompt, embed]`.
    """

    embedder: nn.Module
    prompt: nn.Module

    def __call__(
        self, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch prompt+length embed"]:
        embedded = self.embedder(tokens)
        prompt = self.prompt().astype(embedded.dtype)
        prompt = jnp.broadcast_to(prompt, (embedded.shape[0], *prompt.shape[-2:]))
        return jnp.concatenate([prompt, embedded], axis=1)


def extend_for_prompt(
    tokens: Int[Array, "batch length"], prompt_length: int
) -> Int[Array, "batch prompt+length"]:
    """Puts `prompt_length` ones in front of `tokens`, so that masks made from it see the prompt.

    Masks are made from `tokens > 0`. The prompt's positions hold no tokens, but they must be
    attended to, by the encoder and by the decoder's cross-attention, in training and in decoding.
    """
    return jnp.pad(tokens, ((0, 0), (prompt_length, 0)), constant_values=1)
