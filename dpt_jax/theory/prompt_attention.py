"""Prompt-attention and its rivals, on one example of T tokens; their losses and gradients.

All are linear heads on something pooled from the tokens, without a bias. There is no 1/√d in the
scores (Oymak et al., 2023, section 2.1). A sign is what classifies, so that constant factors do not
matter.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

Tokens = Float[Array, "T d"]
Vector = Float[Array, "d"]


def prompt_attention(tokens: Tokens, w: Vector, q: Vector) -> Float[Array, ""]:
    """f(X) = wᵀ Xᵀ softmax(X q): the prompt's query q chooses tokens, the head w reads them."""
    return pooled(tokens, q) @ w


def linear(tokens: Tokens, w: Vector) -> Float[Array, ""]:
    """f(X) = wᵀ Xᵀ 1 / T: the head reads the mean token."""
    return tokens.mean(axis=0) @ w


def linear_prompt_attention(tokens: Tokens, w: Vector, q: Vector) -> Float[Array, ""]:
    """f(X) = wᵀ Xᵀ X q / T: prompt-attention without the softmax."""
    return tokens.T @ (tokens @ q) @ w / tokens.shape[0]


def self_attention(tokens: Tokens, w: Vector, a: Float[Array, "d d"]) -> Float[Array, ""]:
    """f(X) = 1ᵀ softmax(X A Xᵀ) X w / T: every token asks, and the answers are averaged."""
    weights = jax.nn.softmax(tokens @ a @ tokens.T, axis=-1)
    return (weights @ (tokens @ w)).mean()


def fine_tuned_prompt(
    tokens: Tokens, w: Vector, a: Float[Array, "d d"], p: Vector
) -> Float[Array, ""]:
    """f(X) = wᵀ Xᵀ softmax(X A p): a prompt p and trained weights A; as functions, q = A p."""
    return prompt_attention(tokens, w, a @ p)


def pooled(tokens: Tokens, q: Vector) -> Vector:
    """What the head reads, u = Xᵀ softmax(X q)."""
    return tokens.T @ jax.nn.softmax(tokens @ q)


def attended_covariance_times(tokens: Tokens, q: Vector, w: Vector) -> Vector:
    """C w, with C = Xᵀ (diag φ - φ φᵀ) X the covariance of the tokens under attention φ."""
    weights = jax.nn.softmax(tokens @ q)
    read = tokens @ w
    return tokens.T @ (weights * (read - weights @ read))


def squared_loss(output: Array, label: Array) -> Array:
    """(y - f)² / 2, the loss that this project takes for the paper's (8)."""
    return (label - output) ** 2 / 2


def logistic_loss(output: Array, label: Array) -> Array:
    """log(1 + exp(-y f))."""
    return jax.nn.softplus(-label * output)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "squared": squared_loss,
    "logistic": logistic_loss,
}


def residual(loss: str, output: Array, label: Array) -> Array:
    """Minus the derivative of a loss by the output: y - f, or y / (1 + exp(y f))."""
    if loss == "squared":
        return label - output
    return label * jax.nn.sigmoid(-label * output)


def mean_loss(
    tokens: Float[Array, "n T d"],
    labels: Float[Array, "n"],
    w: Vector,
    q: Vector,
    loss: str = "squared",
) -> Float[Array, ""]:
    """The loss of prompt-attention over n examples, their mean."""
    outputs = jax.vmap(prompt_attention, (0, None, None))(tokens, w, q)
    return LOSSES[loss](outputs, labels).mean()


def loss_gradients(
    tokens: Float[Array, "n T d"],
    labels: Float[Array, "n"],
    w: Vector,
    q: Vector,
    loss: str = "squared",
) -> tuple[Vector, Vector]:
    """The gradients of `mean_loss` by w and by q, in closed form.

    With e the residual, they are minus the means of e u and of e C w.
    """
    u = jax.vmap(pooled, (0, None))(tokens, q)
    spread = jax.vmap(attended_covariance_times, (0, None, None))(tokens, q, w)
    errors = residual(loss, u @ w, labels)
    count = labels.shape[0]
    return -errors @ u / count, -errors @ spread / count


def attention_on(tokens: Float[Array, "n T d"], q: Vector, relevant: int) -> Float[Array, "n"]:
    """How much of the attention of q goes to the first `relevant` tokens."""
    return jax.nn.softmax(tokens @ q, axis=-1)[:, :relevant].sum(axis=-1)
