"""A head of attention with a prefix as a mixture of experts, and its regression on data.

Row 1 of one head of attention with a prefix is a mixture of N known experts, which the pretrained
weights give, and L prompts (Le et al., 2025, section 4)::

    f(x) = [Σ_n exp(xᵀA_n x + a_n) H_n x + Σ_l exp((B k_l)ᵀx + b_l) C v_l] / D(x)

D(x) is the sum of all exponentials. A prompt l is its key k_l, which chooses, its value v_l, which
answers, and its bias b_l. What a structure shares between key and value is the question. Points
are columns here, `[d, n]`, so that what runs over points is contiguous.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.errors import InputError


class Experts(NamedTuple):
    """What is known: the pretrained experts, the projections, and the maps of tanh sharing.

    Attributes:
      scores: A, `[N, d, d]`.
      biases: a, `[N]`.
      maps: H, `[N, d, d]`.
      key_map: B, `[d, d]`.
      value_map: C, `[d, d]`.
      key_layer: W1 of tanh sharing, `[d, d]`.
      value_layer: W2 of tanh sharing, `[d, d]`.
    """

    scores: Float[Array, "N d d"]
    biases: Float[Array, "N"]
    maps: Float[Array, "N d d"]
    key_map: Float[Array, "d d"]
    value_map: Float[Array, "d d"]
    key_layer: Float[Array, "d d"]
    value_layer: Float[Array, "d d"]


class Prompts(NamedTuple):
    """L prompts as the mixture sees them.

    Attributes:
      keys: k, `[L, d]`.
      values: v, `[L, d]`.
      biases: b, `[L]`.
    """

    keys: Float[Array, "L d"]
    values: Float[Array, "L d"]
    biases: Float[Array, "L"]


class Known(NamedTuple):
    """What the experts contribute at some points; it does not change while prompts are fitted.

    Attributes:
      log_mass: log of their sum of exponentials, `[n]`.
      answer: their answer, weighted among themselves, `[d, n]`.
    """

    log_mass: Float[Array, "n"]
    answer: Float[Array, "d n"]


Params = Mapping[str, Array]
# Structure -> its parameters besides the biases. `simple` has k = v = p, and `tanh` has
# k = tanh(W1 p), v = tanh(W2 p); W1 and W2 are known here.
STRUCTURES: dict[str, tuple[str, ...]] = {
    "no share": ("keys", "values"),
    "simple": ("shared",),
    "tanh": ("shared",),
}


def draw_experts(key: Array, count: int, dim: int) -> Experts:
    """Experts at random; B, C, W1 and W2 are rotations, W1 and W2 times 1.2."""
    a, b, h, *maps = jax.random.split(key, 7)

    def rotation(key):
        return jnp.linalg.qr(jax.random.normal(key, (dim, dim)))[0]

    return Experts(
        jax.random.normal(a, (count, dim, dim)) / dim,
        0.3 * jax.random.normal(b, (count,)),
        jax.random.normal(h, (count, dim, dim)) / math.sqrt(dim),
        rotation(maps[0]),
        rotation(maps[1]),
        1.2 * rotation(maps[2]),
        1.2 * rotation(maps[3]),
    )


def draw_params(key: Array, structure: str, count: int, dim: int, scale: float) -> dict[str, Array]:
    """Parameters of a structure at random, every vector about `scale` √d long, biases small."""
    *keys, bias_key = jax.random.split(key, len(STRUCTURES[structure]) + 1)
    drawn = {
        name: scale * jax.random.normal(k, (count, dim))
        for name, k in zip(STRUCTURES[structure], keys, strict=True)
    }
    return drawn | {"biases": 0.3 * jax.random.normal(bias_key, (count,))}


def prompts_of(structure: str, params: Params, experts: Experts) -> Prompts:
    """The prompts that parameters stand for."""
    if structure == "no share":
        return Prompts(params["keys"], params["values"], params["biases"])
    shared = params["shared"]
    if structure == "simple":
        return Prompts(shared, shared, params["biases"])
    return Prompts(
        jnp.tanh(shared @ experts.key_layer.T),
        jnp.tanh(shared @ experts.value_layer.T),
        params["biases"],
    )


def known_part(experts: Experts, x: Float[Array, "d n"]) -> Known:
    """What the experts contribute at points x."""
    scores = jnp.einsum("in,eij,jn->en", x, experts.scores, x) + experts.biases[:, None]
    answers = jnp.einsum("eij,jn->ein", experts.maps, x)
    weights = jax.nn.softmax(scores, axis=0)
    answer = jnp.einsum("en,ein->in", weights, answers)
    return Known(jax.scipy.special.logsumexp(scores, axis=0), answer)


def predict(
    experts: Experts, known: Known, prompts: Prompts, x: Float[Array, "d n"]
) -> Float[Array, "d n"]:
    """f(x) at n points, whose part of the experts is `known`."""
    scores = prompts.keys @ experts.key_map.T @ x + prompts.biases[:, None]
    weights = jax.nn.softmax(jnp.concatenate([known.log_mass[None], scores]), axis=0)
    values = prompts.values @ experts.value_map.T
    return weights[0] * known.answer + values.T @ weights[1:]


def split_atom(prompts: Prompts, which: int, apart: Float[Array, "d"]) -> Prompts:
    """The same function with an atom more: one atom in two, of the same key, values apart.

    (k, v, b) becomes (k, v + δ, b - log 2) and (k, v - δ, b - log 2). No data tells δ: without
    sharing, the values of too many prompts are not identified. This argument is ours.
    """
    bias = prompts.biases[which] - math.log(2)
    return Prompts(
        jnp.concatenate([prompts.keys, prompts.keys[which][None]]),
        jnp.concatenate(
            [
                prompts.values.at[which].add(apart),
                (prompts.values[which] - apart)[None],
            ]
        ),
        jnp.concatenate([prompts.biases.at[which].set(bias), bias[None]]),
    )


def check_sizes(true: int, fitted: int, count: int) -> None:
    """Checks the numbers of prompts.

    Raises:
      InputError: for fewer fitted prompts than true ones, or more than there are points.
    """
    if fitted < true:
        raise InputError(f"{fitted} prompts are fitted to {true}; fit as many at least.")
    if fitted > count:
        raise InputError(
            f"{fitted} prompts are fitted to {count} points; fit fewer, or draw more points."
        )
