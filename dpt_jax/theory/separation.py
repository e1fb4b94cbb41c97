"""Which models can classify a contextual mixture, on the discrete model enumerated.

Every (label, shift) is one example, so that an error is exact. The floors are derived by this
project (docs/theory.md has the argument); the paper's own statement was not at hand.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dpt_jax.theory import prompt_attention
from dpt_jax.theory.contextual_mixture import ContextualMixture
from dpt_jax.theory.prompt_attention import logistic_loss

Params = Mapping[str, Array]

# Model -> its function of (tokens, parameters by name), and the names.
MODELS: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
    "linear": (prompt_attention.linear, ("w",)),
    "linear prompt-attention": (prompt_attention.linear_prompt_attention, ("w", "q")),
    "self-attention": (prompt_attention.self_attention, ("w", "a")),
    "prompt-attention": (prompt_attention.prompt_attention, ("w", "q")),
    "fine-tuned prompt": (prompt_attention.fine_tuned_prompt, ("w", "a", "p")),
}
# The pairs of shifts (δq, δw), by the row of docs/theory.md; D is their size.
ROWS = {
    "(0,0), (D,D)": lambda size: ((0.0, 0.0), (size, size)),
    "(0,0), (D,-D)": lambda size: ((0.0, 0.0), (size, -size)),
    "all three": lambda size: ((0.0, 0.0), (size, size), (size, -size)),
}


def floor(model: str, row: str, size: float, share: float) -> float:
    """The least error that any parameters of a model can have, as far as it is derived; or 0.

    Args:
      model: one of `MODELS`.
      row: one of `ROWS`.
      size: D, the size of the shifts.
      share: ζ.
    """
    odds = share / (1 - share)
    opposed = {
        "linear": size > odds,
        "self-attention": size > max(1 / (1 - share) ** 2, 1 / (share * (1 - share))) - 1,
    }
    if opposed.get(model):
        return {"(0,0), (D,D)": 1 / 2, "all three": 1 / 3}.get(row, 0.0)
    if model == "linear prompt-attention" and size**2 > odds:
        return {"(0,0), (D,-D)": 1 / 4, "all three": 1 / 6}.get(row, 0.0)
    return 0.0


def self_attention_coefficient(
    score: Float[Array, "..."], size: float, share: float
) -> Float[Array, "..."]:
    """c, where mean-pooled self-attention gives c wᵀr_y for shifts (D, D) and r_yᵀ A r_y = κ.

    Without shifts the same coefficient is above 0. Where this is below 0, one of two examples is
    wrong.

    Args:
      score: κ.
      size: D.
      share: ζ.
    """

    def asked(of_relevant, of_other):
        most = jnp.maximum(of_relevant, of_other)
        own = share * jnp.exp(of_relevant - most)
        other = (1 - share) * jnp.exp(of_other - most)
        return (own - size * other) / (own + other)

    by_relevant = asked(score, -size * score)
    by_other = asked(-size * score, size**2 * score)
    return share * by_relevant + (1 - share) * by_other


def oracle_prompt(
    mixture: ContextualMixture, size: float
) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
    """The head and query that are right for every shift once `size` = A is large enough.

    q and w are q* and w* less their parts along each other; q is scaled so that qᵀr = A. Right if
    A (1 + δq) > log((1-ζ) δw / ζ) for every shift whose δw is above 0.
    """
    context, head = mixture.context, mixture.head
    q = context - head * (context @ head) / (head @ head)
    w = head - context * (context @ head) / (context @ context)
    return w, q * size / (q @ context)


def oracle_margin(mixture: ContextualMixture, size: float) -> float:
    """A (1 + δq) - log((1-ζ) δw / ζ), the least over the shifts; the oracle is right above 0."""
    odds = (1 - mixture.share) / mixture.share
    margins = [size * (1 + q) - math.log(odds * w) for q, w in np.asarray(mixture.shifts) if w > 0]
    return min(margins, default=math.inf)


def error(
    model: str, params: Params, tokens: Float[Array, "n T d"], labels: Float[Array, "n"]
) -> Float[Array, ""]:
    """The share of examples with y f(X) ≤ 0."""
    return (labels * outputs(model, params, tokens) <= 0).mean()


def outputs(model: str, params: Params, tokens: Float[Array, "n T d"]) -> Float[Array, "n"]:
    """f(X) of each example."""
    function, names = MODELS[model]
    return jax.vmap(lambda x: function(x, *(params[name] for name in names)))(tokens)


def train(
    model: str,
    tokens: Float[Array, "n T d"],
    labels: Float[Array, "n"],
    key: Array,
    *,
    restarts: int,
    steps: int,
    rate: float,
) -> Float[Array, "restarts"]:
    """Trains a model by Adam on the logistic loss from random starts, side by side.

    Args:
      model: one of `MODELS`.
      tokens: all examples.
      labels: their labels.
      key: of the starts.
      restarts: how many.
      steps: of Adam.
      rate: its learning rate.

    Returns:
      Each start's least error along the way.
    """
    _, names = MODELS[model]
    dim = tokens.shape[-1]
    optimizer = optax.adam(rate)

    def start(key):
        keys = jax.random.split(key, len(names))
        shapes = [(dim, dim) if name == "a" else (dim,) for name in names]
        return {
            name: jax.random.normal(k, shape) / math.sqrt(dim)
            for name, k, shape in zip(names, keys, shapes, strict=True)
        }

    def loss(params):
        return logistic_loss(outputs(model, params, tokens), labels).mean()

    def run(key):
        params = start(key)

        def step(carry, _):
            params, state, least = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            params = optax.apply_updates(params, updates)
            return (params, state, jnp.minimum(least, error(model, params, tokens, labels))), None

        begin = (params, optimizer.init(params), error(model, params, tokens, labels))
        return jax.lax.scan(step, begin, length=steps)[0][2]

    return jax.vmap(run)(jax.random.split(key, restarts))
