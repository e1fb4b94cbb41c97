"""Greedy and beam decoding with a key/value cache, and scoring of given targets.

Every function is pure and can be jitted with the model and the sizes held static, as in
`jax.jit(functools.partial(greedy_decode, model, max_decode_length=8))(params, inputs)`.
The encoder runs once an input, the prompt included; its output is never repeated, neither for beams
nor for answer candidates.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PyTree

from dpt_jax.models.layers import KeysValues
from dpt_jax.models.network import Transformer

PAD_ID = 0
EOS_ID = 1
# T5 has no begin-of-sequence token: the decoder's first input is padding.
START_ID = 0

# Finite, so that a candidate that can never win still has a score to sort by, and never a NaN.
_NEVER = -1.0e7


def shift_right(targets: Int[Array, "... target"]) -> Int[Array, "... target"]:
    """The decoder's inputs for `targets`: the start token, then the targets without their last."""
    start = jnp.full_like(targets[..., :1], START_ID)
    return jnp.concatenate([start, targets[..., :-1]], axis=-1)


def encode(
    model: Transformer, params: PyTree, encoder_input_tokens: Int[Array, "batch source"]
) -> Float[Array, "batch prompt+source embed"]:
    """The encoder's output for prompt and text, without dropout."""
    variables = {"params": params}
    return model.apply(  # type: ignore[return-value]
        variables, encoder_input_tokens, enable_dropout=False, method="encode"
    )


class _Decoder:
    """An encoded batch and the means to decode it one position after the other."""

    def __init__(
        self, model: Transformer, params: PyTree, encoder_input_tokens, encoded, queries: int
    ):
        """`queries` is how many target positions one input will be attended from in all."""
        self._model = model
        self._variables = {"params": params}
        self._inputs = encoder_input_tokens
        self._encoded = encode(model, params, encoder_input_tokens) if encoded is None else encoded
        # Below `head_dim` queries it costs more to form a source's keys and values than to attend
        # without them (`MultiHeadAttention.attend_unprojected`), in operations and in memory read.
        self._projected = None
        if queries >= model.config.head_dim:
            self._projected = self._apply("project_encoded", self._encoded)

    def _apply(self, method, *args, **kwargs):
        return self._model.apply(self._variables, *args, **kwargs, method=method)

    def empty_caches(self, rows: int, max_length: int) -> list[KeysValues]:
        """Caches for `rows` sequences of at most `max_length` tokens."""
        return self._apply("empty_caches", rows, max_length)

    def step(self, tokens, caches, index):
        """Logits `[rows, vocab]` after `tokens [rows]`, which stand at `index`; the new caches."""
        return self._apply(
            "decode_step", self._encoded, self._inputs, tokens, caches, index, self._projected
        )


class _Greedy(struct.PyTreeNode):
    index: Int[Array, ""]
    tokens: Int[Array, "batch target"]
    last: Int[Array, "batch"]
    ended: Bool[Array, "batch"]
    caches: list[KeysValues]


def _greedy(
    model, params, encoder_input_tokens, max_decode_length, eos_id, encoded=None
) -> _Greedy:
    """The state after the last step that was needed; its `index` is how many were taken."""
    _check_length(max_decode_length)
    batch = encoder_input_tokens.shape[0]
    decoder = _Decoder(model, params, encoder_input_tokens, encoded, max_decode_length)

    def unfinished(state: _Greedy):
        return (state.index < max_decode_length) & ~jnp.all(state.ended)

    def step(state: _Greedy):
        logits, caches = decoder.step(state.last, state.caches, state.index)
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        best = jnp.where(state.ended, PAD_ID, best)
        return _Greedy(
            index=state.index + 1,
            tokens=state.tokens.at[:, state.index].set(best),
            last=best,
            ended=state.ended | (best == eos_id),
            caches=caches,
        )

    return jax.lax.while_loop(
        unfinished,
        step,
        _Greedy(
            index=jnp.int32(0),
            tokens=jnp.full((batch, max_decode_length), PAD_ID, jnp.int32),
            last=jnp.full((batch,), START_ID, jnp.int32),
            ended=jnp.zeros((batch,), bool),
            caches=decoder.empty_caches(batch, max_decode_length),
        ),
    )


def greedy_decode(
    model: Transformer,
    params: PyTree,
    encoder_input_tokens: Int[Array, "batch source"],
    max_decode_length: int,
    eos_id: int = EOS_ID,
    encoded: Float[Array, "batch prompt+source embed"] | None = None,
) -> Int[Array, "batch target"]:
    """The most probable token at every position, until every sequence has ended.

    Args:
      model: the network, with its prompt.
      params: its parameters, prompt included.
      encoder_input_tokens: source token ids, 0 is padding.
      max_decode_length: positions to decode at most.
      eos_id: the token that ends a sequence; a negative one never does, so that all
        `max_decode_length` positions are decoded.
      encoded: what `encode` gives for these inputs, where it is known; None computes it.

    Returns:
      int32 token ids with the end token, 0 after it.

    Raises:
      ValueError: `max_decode_length` is below 1.
    """
    return _greedy(model, params, encoder_input_tokens, max_decode_length, eos_id, encoded).tokens


def brevity_penalty(length: Array | int, alpha: float) -> Float[Array, "..."]:
    """What a hypothesis' log-probability is divided by: `((5 + length) / 6) ** alpha`.

    From Wu et al. (2016), equation 14, as T5X uses it; `length` counts the end token.
    """
    return ((5.0 + length) / 6.0) ** alpha


class _Beams(struct.PyTreeNode):
    index: Int[Array, ""]
    # Hypotheses that go on, best first, and the log-probability of each.
    live: Int[Array, "batch beams target"]
    live_logprobs: Float[Array, "batch beams"]
    # Hypotheses that have ended, best first, and the penalized score of each.
    ended: Int[Array, "batch beams target"]
    ended_scores: Float[Array, "batch beams"]
    caches: list[KeysValues]


def _beam_search(
    model,
    params,
    encoder_input_tokens,
    max_decode_length,
    beam_size,
    length_penalty,
    eos_id,
    encoded=None,
) -> _Beams:
    """The state after the last step that was needed; its `index` is how many were taken."""
    _check_length(max_decode_length)
    if beam_size < 1:
        raise ValueError(f"beam_size is {beam_size}; it must be at least 1.")
    if length_penalty < 0:
        # The early stop counts on a longer hypothesis never being divided by less.
        raise ValueError(f"length_penalty is {length_penalty}; it must be 0 or more.")
    batch, vocabulary = encoder_input_tokens.shape[0], model.config.vocab_size
    queries = max_decode_length * beam_size
    decoder = _Decoder(model, params, encoder_input_tokens, encoded, queries)

    def unfinished(state: _Beams):
        # Log-probabilities only fall and the penalty only grows: no continuation of a live
        # hypothesis can score above its present log-probability over the largest penalty.
        bound = state.live_logprobs[:, 0] / brevity_penalty(max_decode_length, length_penalty)
        can_win = bound > state.ended_scores[:, -1]
        return (state.index < max_decode_length) & jnp.any(can_win)

    def step(state: _Beams):
        last = jax.lax.dynamic_index_in_dim(
            state.live, jnp.maximum(state.index - 1, 0), axis=2, keepdims=False
        )
        last = jnp.where(state.index == 0, START_ID, last)
        logits, caches = decoder.step(last.reshape(-1), state.caches, state.index)
        logprobs = jax.nn.log_softmax(logits).reshape(batch, beam_size, vocabulary)
        logprobs = logprobs + state.live_logprobs[..., None]

        # At most one continuation of a hypothesis ends it, so among the best 2 * beams at least
        # `beams` go on.
        logprobs, flat = jax.lax.top_k(
            logprobs.reshape(batch, -1), min(2 * beam_size, beam_size * vocabulary)
        )
        parents, tokens = flat // vocabulary, (flat % vocabulary).astype(jnp.int32)
        candidates = _pick(state.live, parents).at[:, :, state.index].set(tokens)
        ends = tokens == eos_id

        live_logprobs, kept = jax.lax.top_k(jnp.where(ends, _NEVER, logprobs), beam_size)
        survivors = jnp.take_along_axis(parents, kept, axis=1)

        scores = logprobs / brevity_penalty(state.index + 1, length_penalty)
        scores = jnp.concatenate([state.ended_scores, jnp.where(ends, scores, _NEVER)], axis=1)
        ended_scores, best = jax.lax.top_k(scores, beam_size)
        return _Beams(
            index=state.index + 1,
            live=_pick(candidates, kept),
            live_logprobs=live_logprobs,
            ended=_pick(jnp.concatenate([state.ended, candidates], axis=1), best),
            ended_scores=ended_scores,
            caches=jax.tree.map(lambda cache: _pick_rows(cache, survivors), caches),
        )

    nothing = jnp.full((batch, beam_size, max_decode_length), PAD_ID, jnp.int32)
    never = jnp.full((batch, beam_size), _NEVER, jnp.float32)
    return jax.lax.while_loop(
        unfinished,
        step,
        _Beams(
            index=jnp.int32(0),
            live=nothing,
            # One hypothesis to start from: equal ones would fill the beams with copies.
            live_logprobs=never.at[:, 0].set(0.0),
            ended=nothing,
            ended_scores=never,
            caches=decoder.empty_caches(batch * beam_size, max_decode_length),
        ),
    )


def beam_search(
    model: Transformer,
    params: PyTree,
    encoder_input_tokens: Int[Array, "batch source"],
    max_decode_length: int,
    beam_size: int,
    length_penalty: float = 0.6,
    eos_id: int = EOS_ID,
    encoded: Float[Array, "batch prompt+source embed"] | None = None,
) -> tuple[Int[Array, "batch beams target"], Float[Array, "batch beams"]]:
    """The most probable hypotheses a beam search finds, best first.

    The search of T5X: as many live hypotheses as beams, each continued by every token; those that
    end compete by log-probability over `brevity_penalty`. It stops early once no live hypothesis
    can enter the ended ones.

    Args:
      model: the network, with its prompt.
      params: its parameters, prompt included.
      encoder_input_tokens: source token ids, 0 is padding.
      max_decode_length: positions to decode at most.
      beam_size: live hypotheses, and hypotheses returned.
      length_penalty: alpha of `brevity_penalty`, 0 for none.
      eos_id: the token that ends a hypothesis.
      encoded: what `encode` gives for these inputs, where it is known; None computes it.

    Returns:
      int32 token ids with the end token, 0 after it, and the penalized scores. Where nothing ended
      within `max_decode_length`, the live hypotheses take the place of the ended ones, penalized
      as if they had. A place without a hypothesis has a score of about -1e7: where some ended,
      but fewer than there are beams, or the vocabulary is too small to give as many.

    Raises:
      ValueError: `max_decode_length` or `beam_size` is below 1, or `length_penalty` below 0.
    """
    state = _beam_search(
        model,
        params,
        encoder_input_tokens,
        max_decode_length,
        beam_size,
        length_penalty,
        eos_id,
        encoded,
    )
    any_ended = state.ended_scores[:, :1] > _NEVER / 2
    live_scores = state.live_logprobs / brevity_penalty(max_decode_length, length_penalty)
    return (
        jnp.where(any_ended[..., None], state.ended, state.live),
        jnp.where(any_ended, state.ended_scores, live_scores),
    )


def score_targets(
    model: Transformer,
    params: PyTree,
    encoder_input_tokens: Int[Array, "batch source"],
    decoder_target_tokens: Int[Array, "batch target"] | Int[Array, "batch candidates target"],
) -> Float[Array, "batch"] | Float[Array, "batch candidates"]:
    """Log-probability of each target given its input: rank classification's score.

    Args:
      model: the network, with its prompt.
      params: its parameters, prompt included.
      encoder_input_tokens: source token ids, 0 is padding.
      decoder_target_tokens: target token ids, 0 is padding; one target per input, or several.

    Returns:
      float32 sums of the log-probabilities of the target tokens, padding left out.
    """
    encoded = encode(model, params, encoder_input_tokens)
    targets = decoder_target_tokens.reshape(-1, decoder_target_tokens.shape[-1])
    logits: Any = model.apply(
        {"params": params},
        encoded,
        encoder_input_tokens,
        shift_right(targets),
        targets,
        enable_dropout=False,
        method="decode",
    )
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    logprobs = chosen - jax.nn.logsumexp(logits, axis=-1)
    scores = jnp.sum(jnp.where(targets != PAD_ID, logprobs, 0.0), axis=-1)
    return scores.reshape(decoder_target_tokens.shape[:-1])


def _check_length(max_decode_length: int) -> None:
    if max_decode_length < 1:
        raise ValueError(
            f"max_decode_length is {max_decode_length}; it must be at least 1. "
            "TASK_FEATURE_LENGTHS sets it (its `targets`)."
        )


def _pick(hypotheses, which):
    """Hypotheses `which [batch, n]` of `[batch, m, target]`."""
    return jnp.take_along_axis(hypotheses, which[..., None], axis=1)


def _pick_rows(cache, which):
    """A cache `[batch * beams, ...]` reordered by `which [batch, beams]`, within each input."""
    batch, beams = which.shape
    rows = which + jnp.arange(batch)[:, None] * beams
    return jnp.take(cache, rows.reshape(-1), axis=0)
