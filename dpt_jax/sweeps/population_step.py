"""One step of several runs that share a frozen backbone. Pure functions.

What a run's parameterization is does not matter to the backbone: it sees a prompt `[P, D]`, and a
prefix's keys and values (`dpt_jax.training.problem.Folding`). So the members of a population meet
there. The gradient with respect to
what is folded is one program, mapped over members with `vmap` against the one copy of the frozen
weights; what it gives is pulled back into each member's own parameters, and each member's own
optimizer updates them in the shapes that it would have alone. A smaller bottleneck therefore needs
no padding, and no optimizer can tell a population from a run.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from dpt_jax.training.state import Params, TrainState
from dpt_jax.training.step import (
    Batch,
    LossFn,
    apply_gradients,
    dropout_key,
    make_gradient_fn,
)

# (trained parameters, frozen parameters) -> folded parameters
Fold = Callable[[Params, Params], Params]


class Shared(struct.PyTreeNode):
    """What the backbone sees of a population.

    Attributes:
      folded: every member's folded parameters, float32, with an axis of members in front.
      keys: the data of every member's dropout key for its next step.
    """

    folded: Params
    keys: UInt32[Array, "members key"]


class Sums(struct.PyTreeNode):
    """What a batch of each of some members gives: sums over its target tokens, or its images.

    Attributes:
      loss: summed cross-entropy.
      count: how many these are.
      gradients: of the summed loss with respect to `Shared.folded`, in the same form.
    """

    loss: Float[Array, "chunk"]
    count: Float[Array, "chunk"]
    gradients: Params


def make_chunk_gradients(
    loss_fn: LossFn, microbatches: int = 1
) -> Callable[[Shared, Int[Array, "chunk"], Params, Batch], Sums]:
    """Returns `gradients(shared, members, frozen, batches) -> Sums`, to be compiled by the caller.

    Args:
      loss_fn: the loss of any member's folded parameters.
      microbatches: as in `make_gradient_fn`, of each member's batch.

    In the function it returns, `members` says which of the population the chunk consists of, and
    the arrays of `batches` have the chunk as their first axis. Members do not see one another.
    """
    gradients = make_gradient_fn(loss_fn, microbatches)

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


def share(folds: Sequence[Fold], states: Sequence[TrainState], frozen: Params) -> Shared:
    """What the backbone sees of members.

    Args:
      folds: how every member's parameters are folded.
      states: their states.
      frozen: the backbone's parameters, which some prefixes go through.
    """
    folded = [fold(state.params, frozen) for fold, state in zip(folds, states, strict=True)]
    keys = [jax.random.key_data(dropout_key(state)) for state in states]
    return Shared(jax.tree.map(lambda *arrays: jnp.stack(arrays), *folded), jnp.stack(keys))


def make_update(
    folds: Sequence[Fold], optimizers: Sequence[optax.GradientTransformation]
) -> Callable[..., tuple[tuple[TrainState, ...], Shared, dict[str, Array]]]:
    """Returns `update(states, frozen, chunks, rows, active)`, to be compiled by the caller.

    Args:
      folds: how every member's parameters are folded.
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
        for i, (fold, optimizer, state) in enumerate(zip(folds, optimizers, states, strict=True)):
            _, pull_back = jax.vjp(lambda trained, fold=fold: fold(trained, frozen), state.params)
            (grads,) = pull_back(jax.tree.map(lambda x, i=i: x[i], sums.gradients))
            updated, found = apply_gradients(state, optimizer, sums.loss[i], sums.count[i], grads)
            took_part = active[i]
            new_states.append(
                jax.tree.map(lambda new, old, on=took_part: jnp.where(on, new, old), updated, state)
            )
            metrics.append(found)
        stacked = jax.tree.map(lambda *values: jnp.stack(values), *metrics)
        return tuple(new_states), share(folds, new_states, frozen), stacked

    return update


def plan_chunks(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Puts the members of a step into chunks of at most `width`, so that little is padded.

    Args:
      sizes: the size of each member's batch, in any unit.
      width: members of a chunk.

    Returns:
      Indices into `sizes`; those of a chunk are neighbours in size.
    """
    order = np.argsort(sizes, kind="stable").tolist()
    return [order[i : i + width] for i in range(0, len(order), width)]


def stack_batches(batches: Sequence[dict[str, np.ndarray]], width: int) -> dict[str, np.ndarray]:
    """Batches as one, `[width, rows, ...]`; padding does not change what any of them gives.

    Where there are fewer than `width`, the last is repeated, so that one program serves all.
    """
    filled = [*batches, *[batches[-1]] * (width - len(batches))]

    def stack(name: str) -> np.ndarray:
        arrays = [batch[name] for batch in filled]
        longest = np.max([x.shape for x in arrays], axis=0)
        if all(x.shape == tuple(longest) for x in arrays):
            return np.stack(arrays)
        return np.stack([np.pad(x, [(0, d) for d in longest - x.shape]) for x in arrays])

    return {name: stack(name) for name in batches[0]}


def activation_bytes(
    loss_fn: LossFn, folded: Params, frozen: Params, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> int:
    """Bytes that one member's step keeps for its backward pass, by the shapes alone.

    An estimate: a compiler keeps less of what is cheap to compute again, and needs room of its own.

    Args:
      loss_fn: the loss of any member's folded parameters.
      folded: the shapes of these.
      frozen: the shapes of the others.
      batch: the shapes of the rows that are run at once.
    """

    def residuals(folded, frozen, batch):
        key = jax.random.key(0)
        return jax.vjp(lambda trained: loss_fn(trained, frozen, batch, key)[0], folded)[1]

    kept = jax.eval_shape(residuals, folded, frozen, dict(batch))
    # The backward pass reads the weights too, where they lie.
    weights = {x.shape for x in jax.tree.leaves(frozen)}
    arrays = [x for x in jax.tree.leaves(kept) if x.shape not in weights]
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in arrays)
