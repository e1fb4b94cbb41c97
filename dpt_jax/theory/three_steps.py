"""Three gradient steps that find the head and the prompt of prompt-attention.

From w = 0, q = 0, on three splits of n examples each (Oymak et al., 2023, section 4)::

    w1 = -η ∇w L1(0, 0)        q1 = -γ ∇q L2(w1, 0)        w2 = -η ∇w L3(w1, q1)

The second w is the bare negative gradient. The paper's debiasing was not at hand: `Debiasing` has
two readings of it, of which the first is this project's choice. Examples are drawn batch by batch
on the device, and only sums are kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.errors import InputError
from dpt_jax.theory import in_law, population, prompt_attention
from dpt_jax.theory.contextual_mixture import ContextualMixture, draw_labels, sample

Vector = Float[Array, "d"]


class Draws(NamedTuple):
    """How what a step needs of its examples is drawn, given mixture, key, labels and a vector.

    Attributes:
      pooled: of a query q, u = Xᵀ softmax(X q), `[n, d]`.
      mean_and_covariance_times: of a head w, the mean token and C w at q = 0, `[n, d]` each.
    """

    pooled: Callable[[ContextualMixture, Array, Array, Vector], Float[Array, "n d"]]
    mean_and_covariance_times: Callable[
        [ContextualMixture, Array, Array, Vector], tuple[Float[Array, "n d"], Float[Array, "n d"]]
    ]


def _pooled_tokens(mixture, key, labels, q):
    # In one pass over the tokens, and as matrix products of the batch.
    tokens = sample(mixture, key, labels)
    weights = jax.nn.softmax(tokens @ q, axis=-1)
    return jnp.einsum("nt,ntd->nd", weights, tokens)


def _token_moments(mixture, key, labels, w):
    tokens = sample(mixture, key, labels)
    read = tokens @ w
    mean = tokens.mean(axis=1)
    moment = jnp.einsum("nt,ntd->nd", read, tokens) / mixture.length
    return mean, moment - (mean @ w)[:, None] * mean


FROM_TOKENS = Draws(_pooled_tokens, _token_moments)
IN_LAW = Draws(in_law.pooled, in_law.mean_and_covariance_times)
DRAWS = {"tokens": FROM_TOKENS, "in law": IN_LAW}


class Debiasing(NamedTuple):
    """What is classified by: the sign of wᵀu less an offset.

    Attributes:
      w: the head.
      offset: what is subtracted from its output.
    """

    w: Vector
    offset: Float[Array, ""]


class Estimates(NamedTuple):
    """What the three steps found.

    Attributes:
      w1: the first head.
      q1: the query.
      w2: the second head.
      mean_read: the mean of what q1 reads, u, over the third split.
      fresh_mean_read: the same over a split of its own; None where none was drawn.
    """

    w1: Vector
    q1: Vector
    w2: Vector
    mean_read: Vector
    fresh_mean_read: Vector | None

    def debiased(self, reading: str) -> Debiasing:
        """The classifier of a reading of the debiasing step.

        Args:
          reading: "none"; "mean" subtracts the mean output over the third split, "fresh mean" that
            over a split of its own; "projection" takes from w2 its part along q1.

        Raises:
          InputError: for the fresh mean where no split was drawn for it.
        """
        if reading == "projection":
            along, _ = in_law.direction_of(self.q1)
            return Debiasing(in_law.across(self.w2, along), jnp.zeros_like(self.w2[0]))
        reads: dict[str, Vector | None] = {
            "none": jnp.zeros_like(self.w2),
            "mean": self.mean_read,
            "fresh mean": self.fresh_mean_read,
        }
        read = reads[reading]
        if read is None:
            raise InputError('The "fresh mean" needs a split of its own: give fresh=True.')
        return Debiasing(self.w2, self.w2 @ read)


READINGS = ("none", "mean", "fresh mean", "projection")


def three_steps(
    mixture: ContextualMixture,
    key: Array,
    *,
    count: int | Array,
    batch: int,
    step_w: float | Array,
    query_norm: float | Array | None = None,
    step_q: float | Array | None = None,
    balanced: bool = True,
    draws: str = "tokens",
    loss: str = "squared",
    fresh: bool = False,
) -> Estimates:
    """Runs the three steps. It is to be compiled, once for all n.

    Args:
      mixture: what the examples are drawn from.
      key: of all draws.
      count: n, examples in each split; see `check_splits`.
      batch: how many are drawn at once.
      step_w: η, of both steps on w; see `check_step`.
      query_norm: the length that q1 is given, in place of γ.
      step_q: γ, of the step on q; give this one or `query_norm`.
      balanced: whether exactly a half of each split has each label.
      draws: "tokens", or "in law" for what the tokens come to without the tokens.
      loss: "squared" or "logistic".
      fresh: whether to draw a fourth split, for the "fresh mean".

    Raises:
      InputError: when both or neither of `query_norm` and `step_q` are given.
    """
    if (query_norm is None) == (step_q is None):
        raise InputError("Give query_norm or step_q, one of the two.")
    draw = DRAWS[draws]
    splits = jax.random.split(key, 4)
    zero = jnp.zeros_like(mixture.head)

    def mean(split: Array, of: Callable[[Array, Array, Array], Array]) -> Array:
        """The mean over a split of what `of` sums over a batch, given key, labels and weights."""

        def add(number, total):
            label_key, own = jax.random.split(jax.random.fold_in(split, number))
            labels = draw_labels(label_key, batch, balanced)
            counts = (number * batch + jnp.arange(batch) < count).astype(labels.dtype)
            return total + of(own, labels, counts)

        example = jnp.zeros(batch, zero.dtype)
        shape = jax.eval_shape(of, split, example, example)
        start = jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.fori_loop(0, -(-count // batch), add, start) / count

    def descent_w(w: Vector, q: Vector) -> Callable[[Array, Array, Array], Array]:
        """Minus the gradient by w, and what the query reads: sums over a batch."""

        def of(key, labels, counts):
            u = draw.pooled(mixture, key, labels, q)
            errors = prompt_attention.residual(loss, u @ w, labels)
            return jnp.stack([errors * counts, counts]) @ u

        return of

    def descent_q(key, labels, counts):
        means, spread = draw.mean_and_covariance_times(mixture, key, labels, w1)
        return (prompt_attention.residual(loss, means @ w1, labels) * counts) @ spread

    w1 = step_w * mean(splits[0], descent_w(zero, zero))[0]
    q1 = mean(splits[1], descent_q)
    if query_norm is not None:
        q1, step_q = in_law.direction_of(q1)[0], query_norm
    assert step_q is not None
    q1 = step_q * q1
    descent, mean_read = mean(splits[2], descent_w(w1, q1))
    fresh_read = mean(splits[3], descent_w(w1, q1))[1] if fresh else None
    return Estimates(w1, q1, step_w * descent, mean_read, fresh_read)


def check_splits(count: int, batch: int, balanced: bool) -> None:
    """Checks that n examples a split can be drawn, batch by batch.

    Raises:
      InputError: it names the size that can.
    """
    least = 2 if balanced else 1
    if count < least:
        raise InputError(
            f"n is {count}; each of the three splits needs {least} examples at least, so that "
            f"there are {3 * least} in all."
        )
    for name, value in (("n", count), ("batch", batch)):
        if balanced and value % 2:
            raise InputError(
                f"{name} is {value}; balanced labels need an even number, such as {value + 1}."
            )


def check_step(mixture: ContextualMixture, step_w: float) -> None:
    """Checks that the step η is not so large that the second step runs away from q*.

    For the squared loss and the core model: beyond the largest step the first head overshoots the
    labels, and the query's step turns round.

    Raises:
      InputError: it names the largest step that does not.
    """
    largest = population.largest_step(mixture)
    if not 0 < step_w < largest:
        raise InputError(
            f"step_w is {step_w:g}: the steps diverge from q*. The largest that does not is "
            f"{largest:.4g} here, and it is above 0."
        )
