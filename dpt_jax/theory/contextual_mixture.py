"""The contextual mixture: data in which a context tells relevant tokens from irrelevant ones.

An example with label y = +1 or -1 has T tokens. A share ζ of them is relevant, x = q* + y w*. The
others are irrelevant, x = -δq q* - δw y w* + z with noise z ~ N(0, σ² I). The shifts (δq, δw) are
drawn once for each example (Oymak et al., 2023, section 2.2). Relevant tokens stand first here. No
model of this package sees positions.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dpt_jax.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContextualMixture:
    """A distribution of (tokens, label). `core`, `discrete` and `general` make one.

    Attributes:
      context: q*, what relevant tokens have in common, `[d]`.
      head: w*, what tells the classes apart, `[d]`.
      noise: σ, standard deviation of the noise in every direction; a scalar.
      shifts: values (δq, δw) of equal chance, `[atoms, 2]`.
      spread: to each is added a uniform draw from [0, spread), `[2]`.
      relevant: how many tokens are relevant, ζ T.
      length: T, how many tokens there are.
    """

    context: Float[Array, "d"]
    head: Float[Array, "d"]
    noise: Float[Array, ""]
    shifts: Float[Array, "atoms 2"]
    spread: Float[Array, "2"]
    relevant: int = dataclasses.field(metadata={"static": True})
    length: int = dataclasses.field(metadata={"static": True})

    @property
    def dim(self) -> int:
        """d, the width of a token."""
        return self.context.shape[-1]

    @property
    def share(self) -> float:
        """ζ, the share of relevant tokens."""
        return self.relevant / self.length


def general(
    dim: int,
    *,
    context_norm: float,
    head_norm: float,
    correlation: float = 0.0,
    share: float,
    length: int,
    noise: float = 1.0,
    shifts: Sequence[tuple[float, float]] = ((0.0, 0.0),),
    spread: tuple[float, float] = (0.0, 0.0),
) -> ContextualMixture:
    """The mixture in coordinates of its own: q* along the first axis, w* in the first two.

    The noise looks the same in all directions, so that no generality is lost.

    Args:
      dim: d, at least 2.
      context_norm: Q, the length of q*.
      head_norm: W, the length of w*.
      correlation: ρ, the cosine of q* and w*.
      share: ζ; of `length` tokens, `round(share * length)` are relevant.
      length: T.
      noise: σ.
      shifts: the values of (δq, δw), of equal chance.
      spread: a uniform draw from [0, spread) is added to each.

    Raises:
      InputError: for a share outside (0, 1) or one that leaves no token of a kind, a correlation
        outside (-1, 1), fewer than 2 dimensions, or a δq below 0.
    """
    if not 0 < share < 1:
        raise InputError(f"share is {share}; it is a share of the tokens, above 0 and below 1.")
    relevant = round(share * length)
    if not 0 < relevant < length:
        raise InputError(
            f"share = {share} of length = {length} tokens makes {relevant} relevant ones; there "
            "must be one at least, and one that is not. Change share or length."
        )
    if not -1 < correlation < 1:
        raise InputError(f"correlation is {correlation}; it is a cosine above -1 and below 1.")
    if dim < 2:
        raise InputError(f"dim is {dim}; context and head need 2 dimensions at least.")
    if min(*(q for q, _ in shifts), spread[0]) < 0:
        raise InputError(f"shifts are {tuple(shifts)}; the context's shift is 0 or more.")
    context, head = np.zeros(dim), np.zeros(dim)
    context[0] = context_norm
    head[:2] = head_norm * correlation, head_norm * np.sqrt(1 - correlation**2)
    return ContextualMixture(
        context=jnp.asarray(context, float),
        head=jnp.asarray(head, float),
        noise=jnp.asarray(noise, float),
        shifts=jnp.asarray(shifts, float),
        spread=jnp.asarray(spread, float),
        relevant=relevant,
        length=length,
    )


def core(dim: int, **settings) -> ContextualMixture:
    """The core model: irrelevant tokens are noise alone. See `general` for the settings."""
    return general(dim, **settings)


def discrete(dim: int, *, shifts: Sequence[tuple[float, float]], **settings) -> ContextualMixture:
    """The discrete model: no noise, a few values of the shifts. See `general`."""
    return general(dim, shifts=shifts, noise=0.0, **settings)


def draw_labels(key: Array, count: int, balanced: bool) -> Float[Array, "count"]:
    """Labels +1 and -1: of each exactly a half, or each by the toss of a coin.

    Raises:
      InputError: for an odd count of balanced labels.
    """
    if not balanced:
        return jax.random.rademacher(key, (count,), float)
    if count % 2:
        raise InputError(f"n is {count}; balanced labels need an even number of examples.")
    return jnp.tile(jnp.asarray([1.0, -1.0]), count // 2)


def relevant_token(mixture: ContextualMixture, labels: Float[Array, "n"]) -> Float[Array, "n d"]:
    """What every relevant token of an example is: r = q* + y w*."""
    return mixture.context + labels[:, None] * mixture.head


def irrelevant_mean(
    mixture: ContextualMixture, key: Array, labels: Float[Array, "n"]
) -> Float[Array, "n d"]:
    """What the irrelevant tokens of an example are without their noise, shifts drawn."""
    which, where = jax.random.split(key)
    atom = jax.random.randint(which, labels.shape, 0, mixture.shifts.shape[0])
    added = jax.random.uniform(where, (*labels.shape, 2), mixture.spread.dtype) * mixture.spread
    return _shifted(mixture, labels, mixture.shifts[atom] + added)


def sample(
    mixture: ContextualMixture, key: Array, labels: Float[Array, "n"]
) -> Float[Array, "n T d"]:
    """Draws the tokens of examples with given labels."""
    mean_key, noise_key = jax.random.split(key)
    irrelevant = irrelevant_mean(mixture, mean_key, labels)[:, None]
    shape = (labels.shape[0], mixture.length - mixture.relevant, mixture.dim)
    noise = mixture.noise * jax.random.normal(noise_key, shape, mixture.noise.dtype)
    relevant = relevant_token(mixture, labels)[:, None]
    relevant = jnp.broadcast_to(relevant, (shape[0], mixture.relevant, shape[2]))
    return jnp.concatenate([relevant, irrelevant + noise], axis=1)


def enumerate_examples(
    mixture: ContextualMixture,
) -> tuple[Float[Array, "points T d"], Float[Array, "points"], Int[Array, "points"]]:
    """Every example of a discrete model, all of the same probability.

    Returns:
      The tokens, the label and the number of the shift of each (label, shift).
    """
    atoms = mixture.shifts.shape[0]
    labels = jnp.repeat(jnp.asarray([1.0, -1.0]), atoms)
    which = jnp.tile(jnp.arange(atoms), 2)
    relevant = relevant_token(mixture, labels)[:, None]
    irrelevant = _shifted(mixture, labels, mixture.shifts[which])[:, None]
    is_relevant = (jnp.arange(mixture.length) < mixture.relevant)[None, :, None]
    return jnp.where(is_relevant, relevant, irrelevant), labels, which


def _shifted(mixture, labels, shifts):
    return -shifts[:, :1] * mixture.context - (shifts[:, 1] * labels)[:, None] * mixture.head
