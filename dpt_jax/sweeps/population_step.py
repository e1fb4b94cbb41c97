"""One step of several runs that share a frozen backbone. Pure functions.

What a run's parameterization is does not matter to the backbone: it sees a prompt `[P, D]`. So the
members of a population meet there. The gradient with respect to the prompts is one program, mapped
over members with `vmap` against the one copy of the frozen weights; what it gives is pulled back
into each member's own factors, and each member's own optimizer updates them in the shapes that it
would have alone. A smaller bottleneck therefore needs no padding, and no optimizer can tell a
population from a run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from dpt_jax.models import T5Config
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.problems.text import folded_model
from dpt_jax.prompts import SoftPrompt
from dpt_jax.training.state import Params, TrainState
from dpt_jax.training.step import (
    Batch,
    apply_gradients,
    dropout_key,
    make_gradient_fn,
)


class Shared(struct.PyTreeNode):
    """What the backbone sees of a population.

    Attributes:
      prompts: every member's folded prompt, float32.
      keys: the data of every member's dropout key for its next step.
    """

    prompts: Float[Array, "members length embed"]
    keys: UInt32[Array, "members key"]


class Sums(struct.PyTreeNode):
    """What a batch of each of some members gives: sums over its target tokens.

    Attributes:
      loss: summed cross-entropy.
      count: target tokens.
      gradients: of the summed loss with respect to the folded prompts.
    """

    loss: Float[Array, "chunk"]
    count: Float[Array, "chunk"]
    gradients: Float[Array, "chunk length embed"]


def make_chunk_gradients(
    config: T5Config, prompt_length: int, z_loss: float = 0.0, microbatches: int = 1
) -> Callable[[Shared, Int[Array, "chunk"], Params, Batch], Sums]:
    """Returns `gradients(shared, members, frozen, batches) -> Sums`, to be compiled by the caller.

    Args:
      config: the backbone.
      prompt_length: P of all members.
      z_loss: as in `make_loss_fn`.
      microbatches: as in `make_gradient_fn`, of each member's batch.

    In the function it returns, `members` says which of the population the chunk consists of, and
    the arrays of `batches` have the chunk as their first axis. Members do not see one another.
    """
    model = folded_model(config, prompt_length)
    gradients = make_gradient_fn(make_loss_fn(model, z_loss), microbatches)

    def of_one(prompt, key, frozen, batch):
        trainable = {"prompt": {"prompt": prompt}}
        (loss, count), grads = gradients(trainable, frozen, batch, jax.random.wrap_key_data(key))
        return Sums(loss, count, grads["prompt"]["prompt"])

    def chunk_gradients(shared, members, frozen, batches):
        prompts, keys = shared.prompts[members], shared.keys[members]
        if len(members) == 1:
            # A CPU multiplies plain matrices faster than a batch of one.
            one = jax.tree.map(lambda x: x[0], batches)
            return jax.tree.map(lambda x: x[None], of_one(prompts[0], keys[0], frozen, one))
        return jax.vmap(of_one, in_axes=(0, 0, None, 0))(prompts, keys, frozen, batches)

    return chunk_gradients


def share(prompts: Sequence[SoftPrompt], states: Sequence[TrainState]) -> Shared:
    """What the backbone sees of members with these prompt modules and states."""
    folded = [_fold(p, s.params["prompt"]) for p, s in zip(prompts, states, strict=True)]
    keys = [jax.random.key_data(dropout_key(state)) for state in states]
    return Shared(jnp.stack(folded), jnp.stack(keys))


def _fold(prompt: SoftPrompt, params: Params) -> Float[Array, "length embed"]:
    return prompt.clone(parent=None).apply({"params": params})  # type: ignore[return-value]


def make_update(
    prompts: Sequence[SoftPrompt], optimizers: Sequence[optax.GradientTransformation]
) -> Callable[..., tuple[tuple[TrainState, ...], Shared, dict[str, Array]]]:
    """Returns `update(states, chunks, rows, active)`, to be compiled by the caller.

    Args:
      prompts: every member's prompt module.
      optimizers: every member's optimizer.

    The function it returns takes the states, a tuple of `Sums`, the row of each member in all
    chunks one after the other, and which members had a batch. It gives the new states, those of
    the others unchanged, what the backbone sees of them, and the metrics of `apply_gradients` as
    arrays `[members]`.
    """

    def update(
        states: tuple[TrainState, ...],
        chunks: tuple[Sums, ...],
        rows: Int[Array, "members"],
        active: Bool[Array, "members"],
    ):
        sums = jax.tree.map(lambda *parts: jnp.concatenate(parts)[rows], *chunks)
        new_states, metrics = [], []
        for i, (prompt, optimizer, state) in enumerate(
            zip(prompts, optimizers, states, strict=True)
        ):
            _, pull_back = jax.vjp(
                lambda params, p=prompt: _fold(p, params), state.params["prompt"]
            )
            (grads,) = pull_back(sums.gradients[i])
            updated, found = apply_gradients(
                state, optimizer, sums.loss[i], sums.count[i], {"prompt": grads}
            )
            took_part = active[i]
            new_states.append(
                jax.tree.map(lambda new, old, on=took_part: jnp.where(on, new, old), updated, state)
            )
            metrics.append(found)
        stacked = jax.tree.map(lambda *values: jnp.stack(values), *metrics)
        return tuple(new_states), share(prompts, new_states), stacked

    return update


def plan_chunks(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Puts the members of a step into chunks of at most `width`, so that little is padded.

    Args:
      lengths: padded source length of each member's batch.
      width: members of a chunk.

    Returns:
      Indices into `lengths`; those of a chunk are neighbours in length.
    """
    order = np.argsort(lengths, kind="stable").tolist()
    return [order[i : i + width] for i in range(0, len(order), width)]


def stack_batches(batches: Sequence[dict[str, np.ndarray]], width: int) -> dict[str, np.ndarray]:
    """Batches as one, `[width, rows, longest]`; padding does not change what any of them gives.

    Where there are fewer than `width`, the last is repeated, so that one program serves all.
    """
    filled = [*batches, *[batches[-1]] * (width - len(batches))]

    def stack(name: str) -> np.ndarray:
        longest = max(batch[name].shape[1] for batch in filled)
        return np.stack(
            [np.pad(b[name], ((0, 0), (0, longest - b[name].shape[1]))) for b in filled]
        )

    return {name: stack(name) for name in batches[0]}


def activation_bytes(config: T5Config, prompt_length: int, sizes: tuple[int, int, int]) -> int:
    """Bytes that one member's step keeps for its backward pass, by the shapes alone.

    An estimate: a compiler keeps less of what is cheap to compute again, and needs room of its own.

    Args:
      config: the backbone.
      prompt_length: P.
      sizes: rows that are run at once, and their padded source and target lengths.
    """
    rows, source, target = sizes
    model = folded_model(config, prompt_length)
    loss_fn = make_loss_fn(model)

    def residuals(trainable, frozen, inputs, targets):
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": targets,
            "decoder_target_tokens": targets,
        }
        key = jax.random.key(0)
        return jax.vjp(lambda t: loss_fn(t, frozen, batch, key)[0], trainable)[1]

    tokens = jnp.zeros((1, 8), jnp.int32)
    params: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, tokens, tokens))
    frozen = {name: value for name, value in params["params"].items() if name != "prompt"}
    kept = jax.eval_shape(
        residuals,
        {"prompt": params["params"]["prompt"]},
        frozen,
        jax.ShapeDtypeStruct((rows, source), jnp.int32),
        jax.ShapeDtypeStruct((rows, target), jnp.int32),
    )
    # The backward pass reads the weights too, where they lie.
    weights = {x.shape for x in jax.tree.leaves(frozen)}
    arrays = [x for x in jax.tree.leaves(kept) if x.shape not in weights]
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in arrays)
