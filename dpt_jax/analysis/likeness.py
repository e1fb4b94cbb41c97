"""How alike the keys and the values of a prefix are, layer by layer, in numbers.

Le et al., "Revisiting Prefix-tuning" (ICLR 2025), ask what a token's key and value share. These
numbers say what a trained prefix shares, whatever its method. NumPy alone.
"""

import numpy as np
from jaxtyping import Float


def cosine(
    keys: Float[np.ndarray, "layers length heads kv"],
    values: Float[np.ndarray, "layers length heads kv"],
) -> Float[np.ndarray, "layers"]:
    """The cosine of a token's key and its value, all heads joined, averaged over the tokens.

    It is 0 where one of them is zero. Keys and values live in different spaces: what speaks of
    sharing is a cosine that is far from 0, not one that is near it.
    """
    k, v = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (keys, values))
    norms = np.linalg.norm(k, axis=-1) * np.linalg.norm(v, axis=-1)
    products = np.sum(k * v, axis=-1)
    return np.mean(np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0), axis=1)


def canonical_correlation(
    keys: Float[np.ndarray, "layers length heads kv"],
    values: Float[np.ndarray, "layers length heads kv"],
    components: int | None = None,
) -> Float[np.ndarray, "layers"]:
    """The mean squared canonical correlation of keys and values over the tokens.

    All of N tokens' keys and values span the same N - 1 dimensions, and correlate perfectly. So
    each side is cut to its first principal components, as Raghu et al. ("SVCCA", NeurIPS 2017) do.
    1 says that some linear map gives one from the other there; independent directions give
    `components / (N - 1)` on average. Neither a linear map of the keys that keeps their principal
    components, nor one of the values, changes it.

    Args:
      keys: of a stack.
      values: of the same.
      components: how many components; None is `components_of(N)`.

    Raises:
      ValueError: for fewer than 2 tokens, or components that are not between 1 and N - 1.
    """
    length = keys.shape[1]
    count = components_of(length) if components is None else components
    if length < 2 or not 1 <= count <= length - 1:
        raise ValueError(f"{count} components of a prefix of {length} tokens; at most N - 1.")
    found = []
    for pair in zip(keys, values, strict=True):
        bases = [_token_directions(side.reshape(length, -1), count) for side in pair]
        correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
        found.append(np.sum(np.square(correlations)) / count)
    return np.array(found)


def components_of(length: int) -> int:
    """How many principal components of N tokens are compared: a fifth, at least one."""
    return max(1, length // 5)


def _token_directions(
    rows: Float[np.ndarray, "length joined"], count: int
) -> Float[np.ndarray, "length count"]:
    """How the tokens lie along the first principal components: orthonormal columns.

    A column is zero where there are fewer components, and correlates with nothing.
    """
    centred = rows.astype(np.float64) - np.mean(rows, axis=0, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    there = sizes[:count] > sizes[0] * len(rows) * np.finfo(np.float32).eps
    return left[:, :count] * there
