"""The theory's quantities on a real head of attention, for a prompt in front of a text.

Arrays are those of an encoder's layer: what the layer's norm gives, and the kernels of query and
key with H heads side by side. T5 adds a position bias to the scores and does not scale them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention(
    normed: Float[Array, "batch length embed"],
    query_kernel: Float[Array, "embed heads*kv"],
    key_kernel: Float[Array, "embed heads*kv"],
    bias: Float[Array, "1 heads length length"],
    valid: Bool[Array, "batch length"],
) -> Float[Array, "batch heads length length"]:
    """The attention of every position to every position that is no padding."""
    heads = bias.shape[1]
    queries, keys = (_heads(normed @ kernel, heads) for kernel in (query_kernel, key_kernel))
    scores = jnp.einsum("bqhk,bthk->bhqt", queries, keys) + bias
    return jax.nn.softmax(jnp.where(valid[:, None, None], scores, -jnp.inf), axis=-1)


def relevance(
    weights: Float[Array, "batch heads length length"],
    prompt_length: int,
    relevant: Bool[Array, "batch text"],
    valid: Bool[Array, "batch text"],
) -> Float[Array, "heads"]:
    """How much more a prompt's queries attend to relevant tokens than their number alone gives.

    It is the share of the attention to the text that goes to relevant tokens, divided by their
    share of the tokens; 1 is no selection. A mean over examples and the prompt's positions.

    Args:
      weights: of one layer, prompt in front.
      prompt_length: positions of the prompt.
      relevant: which tokens of the text are.
      valid: which are no padding.
    """
    of_prompt = weights[:, :, :prompt_length, prompt_length:]
    mass = (of_prompt * relevant[:, None, None]).sum(-1) / of_prompt.sum(-1)
    share = (relevant & valid).sum(-1) / valid.sum(-1)
    return (mass / share[:, None, None]).mean(axis=(0, 2))


def query_directions(
    normed: Float[Array, "prompt embed"],
    query_kernel: Float[Array, "embed heads*kv"],
    key_kernel: Float[Array, "embed heads*kv"],
    heads: int,
) -> Float[Array, "heads prompt embed"]:
    """The q of prompt-attention, W_K W_Qᵀ p of every head and position: a token has score xᵀq."""
    queries, keys = _heads(normed @ query_kernel, heads), _heads(key_kernel, heads)
    return jnp.einsum("phk,ehk->hpe", queries, keys)


def cosines(
    directions: Float[Array, "heads prompt embed"], direction: Float[Array, "embed"]
) -> Float[Array, "heads prompt"]:
    """The cosine of every query direction with one direction."""
    lengths = jnp.linalg.norm(directions, axis=-1) * jnp.linalg.norm(direction)
    return directions @ direction / lengths


def _heads(x: Float[Array, "... heads*kv"], heads: int) -> Float[Array, "... heads kv"]:
    return x.reshape(*x.shape[:-1], heads, -1)
