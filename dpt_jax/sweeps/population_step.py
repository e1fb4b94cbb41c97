"""One step of several runs that share a frozen backbone. Pure functions.

What a run's parameterization is does not matter to the backbone: it sees a prompt `[P, D]`, and a
prefix's keys and values. So the members of a population meet there. The gradient with respect to
what is folded is one program, mapped over members with `vmap` against the one copy of the frozen
weights; what it gives is pulled back into each member's own parameters, and each member's own
optimizer updates them in the shapes that it would have alone. A smaller bottleneck therefore needs
no padding, and no optimizer can tell a population from a run.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from dpt_jax.models import Transformer
from dpt_jax.models.network import abstract_variables, fold_prefix
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.training.state import Params, TrainState, merge_params
from dpt_jax.training.step import (
    Batch,
    apply_gradients,
    dropout_key,
    make_gradient_fn,
)


class Shared(struct.PyTreeNode):
    """What the backbone sees of a population.

    Attributes:
      folded: every member's folded prompt and prefix, float32, as the parameters of the folded
        model (`dpt_jax.problems.folded.folded_model`), with an axis of members in front.
      keys: the data of every member's dropout key for its next step.
    """

    folded: Params
    keys: UInt32[Array, "members key"]


class Sums(struct.PyTreeNode):
    """What a batch of each of some members gives: sums over its target tokens.

    Attributes:
      loss: summed cross-entropy.
      count: target tokens.
      gradients: of the summed loss with respect to `Shared.folded`, in the same form.
    """

    loss: Float[Array, "chunk"]
    count: Float[Array, "chunk"]
    gradients: Params


def make_chunk_gradients(
    folded_model: Transformer, z_loss: float = 0.0, microbatches: int = 1
) -> Callable[[Shared, Int[Array, "chunk"], Params, Batch], Sums]:
    """Returns `gradients(shared, members, frozen, batches) -> Sums`, to be compiled by the caller.

    Args:
      folded_model: the network with the folded prompt and prefix of any member.
      z_loss: as in `make_loss_fn`.
      microbatches: as in `make_gradient_fn`, of each member's batch.

    In the function it returns, `members` says which of the population the chunk consists of, and
    the arrays of `batches` have the chunk as their first axis. Members do not see one another.
    """
    gradients = make_gradient_fn(make_loss_fn(folded_model, z_loss), microbatches)

    def of_one(folded, key, frozen, batch):
        (loss, count), grads = gradients(folded, frozen, batch, jax.random.wrap_key_data(key))
        return Sums(loss, count, grads)

    def chunk_gradients(shared, members, frozen, batches):
        chosen, keys = jax.tree.map(lambda x: x[members], (shared.folded, shared.keys))
        if len(members) == 1:
            # A CPU multiplies plain matrices faster than a batch of one.
            first, key, one = jax.tree.map(lambda x: x[0], (chosen, keys, batches))
            return jax.tree.map(lambda x: x[None], of_one(first, key, frozen, one))
        return jax.vmap(of_one, in_axes=(0, 0, None, 0))(chosen, keys, frozen, batches)

    return chunk_gradients


def share(models: Sequence[Transformer], states: Sequence[TrainState], frozen: Params) -> Shared:
    """What the backbone sees of members.

    Args:
      models: every member's network, with its prompt and prefix modules.
      states: their states.
      frozen: the backbone's parameters, which some prefixes go through.
    """
    folded = [_fold(m, frozen, s.params) for m, s in zip(models, states, strict=True)]
    keys = [jax.random.key_data(dropout_key(state)) for state in states]
    return Shared(jax.tree.map(lambda *arrays: jnp.stack(arrays), *folded), jnp.stack(keys))


def _fold(model: Transformer, frozen: Params, trained: Params) -> Params:
    """One member's part of `Shared.folded`."""
    folded: Params = {}
    if model.prompt is not None:
        prompt = model.prompt.clone(parent=None)
        folded["prompt"] = {"prompt": prompt.apply({"params": trained["prompt"]})}
    if model.prefix is not None:
        folded["prefix"] = fold_prefix(model, merge_params(trained, frozen))
    return folded


def make_update(
    models: Sequence[Transformer], optimizers: Sequence[optax.GradientTransformation]
) -> Callable[..., tuple[tuple[TrainState, ...], Shared, dict[str, Array]]]:
    """Returns `update(states, frozen, chunks, rows, active)`, to be compiled by the caller.

    Args:
      models: every member's network, with its prompt and prefix modules.
      optimizers: every member's optimizer.

    The function it returns takes the states, the backbone's parameters, a tuple of `Sums`, the row
    of each member in all chunks one after the other, and which members had a batch. It gives the
    new states, those of the others unchanged, what the backbone sees of them, and the metrics of
    `apply_gradients` as arrays `[members]`.
    """

    def update(
        states: tuple[TrainState, ...],
        frozen: Params,
        chunks: tuple[Sums, ...],
        rows: Int[Array, "members"],
        active: Bool[Array, "members"],
    ):
        sums = jax.tree.map(lambda *parts: jnp.concatenate(parts)[rows], *chunks)
        new_states, metrics = [], []
        for i, (model, optimizer, state) in enumerate(zip(models, optimizers, states, strict=True)):
            _, pull_back = jax.vjp(functools.partial(_fold, model, frozen), state.params)
            (grads,) = pull_back(jax.tree.map(lambda x, i=i: x[i], sums.gradients))
            updated, found = apply_gradients(state, optimizer, sums.loss[i], sums.count[i], grads)
            took_part = active[i]
            new_states.append(
                jax.tree.map(lambda new, old, on=took_part: jnp.where(on, new, old), updated, state)
            )
            metrics.append(found)
        stacked = jax.tree.map(lambda *values: jnp.stack(values), *metrics)
        return tuple(new_states), share(models, new_states, frozen), stacked

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


def activation_bytes(folded_model: Transformer, sizes: tuple[int, int, int]) -> int:
    """Bytes that one member's step keeps for its backward pass, by the shapes alone.

    An estimate: a compiler keeps less of what is cheap to compute again, and needs room of its own.

    Args:
      folded_model: the network with the folded prompt and prefix of any member.
      sizes: rows that are run at once, and their padded source and target lengths.
    """
    rows, source, target = sizes
    loss_fn = make_loss_fn(folded_model)

    def residuals(trainable, frozen, inputs, targets):
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": targets,
            "decoder_target_tokens": targets,
        }
        key = jax.random.key(0)
        return jax.vjp(lambda t: loss_fn(t, frozen, batch, key)[0], trainable)[1]

    params = dict(abstract_variables(folded_model)["params"])
    folded = {name: params.pop(name) for name in ("prompt", "prefix") if name in params}
    kept = jax.eval_shape(
        residuals,
        folded,
        params,
        jax.ShapeDtypeStruct((rows, source), jnp.int32),
        jax.ShapeDtypeStruct((rows, target), jnp.int32),
    )
    # The backward pass reads the weights too, where they lie.
    weights = {x.shape for x in jax.tree.leaves(params)}
    arrays = [x for x in jax.tree.leaves(kept) if x.shape not in weights]
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in arrays)
