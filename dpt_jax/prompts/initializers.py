"""Where a prompt starts: distributions, the model's vocabulary, and existing prompts.

Everything here makes an initializer in Flax's form, `(key, shape, dtype) -> array`, from arguments
that gin can bind. Those that need the model's embeddings (`VocabularyInitializer`) are bound to
them by `bind_vocabulary` once the model is loaded.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from dpt_jax.prompts.arrays import name_of, prompt_array, shape_error

Initializer = Callable[..., jax.Array]
"""Flax's: `(key, shape, dtype)` gives the first values, an array of that shape and dtype."""

Encode = Callable[[str], Sequence[int]]
_Module = TypeVar("_Module", bound=nn.Module)

# T5's vocabularies begin with padding, end of sequence and unknown; the pieces follow in the order
# of their frequency.
_SPECIAL_IDS = 3


def gaussian(stddev: float = 1.0) -> Initializer:
    """Draws from the normal distribution with mean 0 and standard deviation `stddev`."""
    return nn.initializers.normal(stddev)


def uniform(scale: float = 0.5) -> Initializer:
    """Draws uniformly from [-scale, scale); 0.5 is the range of Lester et al. (2021)."""

    def initializer(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, tuple(shape), dtype, -scale, scale)

    return initializer


def from_prompt(prompt: Any) -> Initializer:
    """Starts from a prompt that exists already.

    Args:
        prompt: an array `[P, D]`. It is asked for its values when the parameter is initialized, not
            before, so that it may be a file that reads itself (`dpt_jax.interop.PromptFile`).

    Returns:
        An initializer for a parameter `[length, embed]`. It raises ValueError where the array is no
        prompt, has numbers that are not finite, or has another shape.
    """

    def initializer(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        array = prompt_array(prompt)
        if array.shape != tuple(shape):
            raise shape_error(name_of(prompt), array, *shape)
        return jnp.asarray(array, dtype)

    return initializer


def from_factors(factors: Mapping[str, Any], factor: Literal["A", "B"]) -> Initializer:
    """Continues one factor of a `DecomposedPrompt` from where it was left.

    Unlike `truncated_svd`, which makes new factors of the same product, this starts from the very
    factors that were trained.

    Args:
        factors: the factors by name. They are asked for when the parameter is initialized, not
            before, so that they may be in a file (`dpt_jax.interop.FactorsFile`).
        factor: which factor to take, "A" `[P, b]` or "B" `[b, D]`.

    Returns:
        An initializer for that factor. It raises ValueError where the factor is missing or has
        another shape.

    Raises:
        ValueError: if `factor` is neither "A" nor "B".
    """
    _check_factor("from_factors", factor)

    def initializer(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        name = getattr(factors, "name", "The given mapping")
        try:
            array = factors[factor]
        except KeyError as error:
            raise ValueError(
                f"{name} holds the parameters {', '.join(factors)}, but a DecomposedPrompt has A "
                "and B. Change PROMPT_FILE."
            ) from error
        if jnp.shape(array) != tuple(shape):
            sizes = {"A": "(PROMPT_LENGTH, BOTTLENECK)", "B": "(BOTTLENECK, EMBED_DIM)"}[factor]
            raise ValueError(
                f"{name} holds {factor} of shape {jnp.shape(array)}, but the wanted shape {sizes} "
                f"is {tuple(shape)}. Set these macros to the sizes of the factors, or change "
                "PROMPT_FILE."
            )
        return jnp.asarray(array, dtype)

    return initializer


def truncated_svd(prompt: Any, factor: Literal["A", "B"]) -> Initializer:
    """Starts one factor of a `DecomposedPrompt` from an existing prompt.

    With the singular value decomposition `prompt = U S V^T` cut after b values, `A` is
    `U sqrt(S)` and `B` is `sqrt(S) V^T`: `A @ B` is the closest matrix of rank b in the Frobenius
    norm (Eckart and Young, 1936), and both factors begin with columns and rows of equal norm.
    Both initializers must be given the same prompt.

    Args:
        prompt: an array `[P, D]` or a file, as `from_prompt` takes them.
        factor: which factor to make, "A" `[P, b]` or "B" `[b, D]`.

    Returns:
        An initializer for that factor. It raises ValueError for a prompt that `from_prompt` would
        not take and for a bottleneck above min(P, D).

    Raises:
        ValueError: if `factor` is neither "A" nor "B".
    """
    _check_factor("truncated_svd", factor)

    def initializer(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        array = prompt_array(prompt)
        bottleneck = shape[1] if factor == "A" else shape[0]
        if factor == "A" and array.shape[0] != shape[0]:
            raise shape_error(name_of(prompt), array, shape[0], None)
        if factor == "B" and array.shape[1] != shape[1]:
            raise shape_error(name_of(prompt), array, None, shape[1])
        if bottleneck > min(array.shape):
            raise ValueError(
                f"BOTTLENECK is {bottleneck}, but a prompt of shape {array.shape} has only "
                f"{min(array.shape)} singular values to start from. Set --gin.BOTTLENECK to at "
                "most that, or start from initializers.gaussian."
            )
        a, b = _svd_factors(array, bottleneck)
        return jnp.asarray(a if factor == "A" else b, dtype)

    return initializer


def _check_factor(initializer: str, factor: str) -> None:
    if factor not in ("A", "B"):
        raise ValueError(
            f"initializers.{initializer}.factor is {factor!r}, but must be 'A' or 'B'."
        )


def _svd_factors(prompt: np.ndarray, bottleneck: int) -> tuple[np.ndarray, np.ndarray]:
    u, s, vt = np.linalg.svd(prompt.astype(np.float64), full_matrices=False)
    u, s, vt = u[:, :bottleneck], s[:bottleneck], vt[:bottleneck]
    # The decomposition leaves the sign of each pair open. A and B are made in separate calls, so
    # it is fixed here: the largest entry of each left vector is positive.
    largest = np.argmax(np.abs(u), axis=0)
    signs = np.where(u[largest, np.arange(bottleneck)] < 0, -1.0, 1.0)
    root = np.sqrt(s)
    return u * signs * root, (signs * root)[:, None] * vt


@dataclasses.dataclass(frozen=True)
class VocabularyInitializer:
    """An initializer that makes its rows from the model's embedding table.

    It is configured before the model is loaded, and bound to the table afterwards; a subclass
    defines `rows`.
    """

    def rows(
        self,
        key: jax.Array,
        length: int,
        embedding: Float[Array, "vocabulary embed"],
        encode: Encode | None,
    ) -> Float[Array, "length embed"]:
        """Makes the rows of a prompt.

        Args:
            key: a JAX random key.
            length: how many rows.
            embedding: see `bind`.
            encode: see `bind`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define rows.")

    def bind(self, embedding: Any, encode: Encode | None = None) -> Initializer:
        """Makes the initializer that draws from a model's embeddings.

        Args:
            embedding: the model's table `[vocabulary, embed]`, of any float type.
            encode: turns text into the ids of its pieces, without an end of sequence.

        Returns:
            An initializer for a parameter `[length, embed]`, or `[layers, length, embed]` with rows
            of its own for every layer. It raises ValueError where the table has another width.
        """

        def initializer(
            key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
        ) -> jax.Array:
            *layers, length, width = shape
            if embedding.shape[1] != width:
                raise ValueError(
                    f"{type(self).__name__} makes rows of the model's embeddings, which are "
                    f"{embedding.shape[1]} wide, but the prompt parameter has shape "
                    f"{tuple(shape)}. Set --gin.EMBED_DIM={embedding.shape[1]}, or give a factor "
                    "of a prompt another initializer."
                )
            table = jnp.asarray(embedding)
            if not layers:
                return self.rows(key, length, table, encode).astype(dtype)
            keys = jax.random.split(key, math.prod(layers))
            rows = jnp.stack([self.rows(k, length, table, encode) for k in keys])
            return rows.reshape(shape).astype(dtype)

        return initializer

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        """Refuses: the embedding table is not known yet.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"initializers.{type(self).__name__} needs the model's embeddings to initialize a "
            f"prompt of shape {tuple(shape)}: call bind_vocabulary(prompt, embedding, encode) "
            "first, or give the prompt an initializer without them (initializers.uniform)."
        )


@dataclasses.dataclass(frozen=True)
class SampledVocabulary(VocabularyInitializer):
    """Starts each prompt token at the embedding of a random, frequent piece of the vocabulary.

    Lester et al. (2021), section 3.2: drawn from the 5,000 most frequent pieces. The pieces of a
    SentencePiece vocabulary are in the order of their frequency; padding, end of sequence and
    unknown are left out. No piece is drawn twice unless there are fewer pieces than rows.

    Attributes:
        population: how many of the most frequent pieces to draw from.

    Raises:
        ValueError: at construction, if `population` is below 1.
    """

    population: int = 5000

    def __post_init__(self):
        _require_population(self)

    def rows(
        self,
        key: jax.Array,
        length: int,
        embedding: Float[Array, "vocabulary embed"],
        encode: Encode | None = None,
    ) -> Float[Array, "length embed"]:
        """Returns `length` rows of the table; see `VocabularyInitializer.rows`."""
        del encode
        return _sample_rows(key, length, embedding, self.population)


@dataclasses.dataclass(frozen=True)
class ClassLabels(VocabularyInitializer):
    """Starts the first prompt tokens at the task's labels, and the rest at sampled vocabulary.

    Lester et al. (2021), section 3.2: a label of several pieces becomes the mean of their
    embeddings, and where the labels run out the remaining tokens are sampled from the vocabulary.

    Attributes:
        labels: the texts of the labels, in the order of the prompt's rows.
        population: how many of the most frequent pieces to draw the remaining rows from.

    Raises:
        ValueError: at construction, if `labels` is empty or `population` is below 1.
    """

    labels: Sequence[str]
    population: int = 5000

    def __post_init__(self):
        # A single text is a sequence of letters, which nobody means by their labels.
        if isinstance(self.labels, str) or not self.labels:
            raise ValueError(
                f"CLASS_LABELS is {self.labels!r}, but must be a list of one or more label texts, "
                "such as ('true', 'false')."
            )
        object.__setattr__(self, "labels", tuple(self.labels))
        _require_population(self)

    def bind(self, embedding: Any, encode: Encode | None = None) -> Initializer:
        """As `VocabularyInitializer.bind`; raises ValueError without `encode`."""
        self._require_encode(encode)
        return super().bind(embedding, encode)

    def _require_encode(self, encode: Encode | None) -> Encode:
        if encode is None:
            raise ValueError(
                "initializers.ClassLabels needs the vocabulary's encode function to find the "
                f"pieces of {self.labels!r}: call bind_vocabulary(prompt, embedding, encode)."
            )
        return encode

    def rows(
        self,
        key: jax.Array,
        length: int,
        embedding: Float[Array, "vocabulary embed"],
        encode: Encode | None,
    ) -> Float[Array, "length embed"]:
        """Returns a row for each label, then sampled rows up to `length`.

        The arguments are those of `VocabularyInitializer.rows`.

        Raises:
            ValueError: for more labels than rows, or one without a piece in the vocabulary.
        """
        if len(self.labels) > length:
            raise ValueError(
                f"CLASS_LABELS has {len(self.labels)} labels, but PROMPT_LENGTH is {length}. Set "
                f"--gin.PROMPT_LENGTH to at least {len(self.labels)}, or give fewer labels."
            )
        encode = self._require_encode(encode)
        means = []
        for label in self.labels:
            ids = np.asarray(encode(label), dtype=np.int32)
            if ids.size == 0 or ids.min() < 0 or ids.max() >= embedding.shape[0]:
                raise ValueError(
                    f"CLASS_LABELS: the label {label!r} is encoded as the ids {ids.tolist()}, but "
                    f"must have one or more, from 0 to {embedding.shape[0] - 1}."
                )
            means.append(jnp.mean(embedding[ids].astype(jnp.float32), axis=0))
        labels = jnp.stack(means)
        if length == len(means):
            return labels
        rest = _sample_rows(key, length - len(means), embedding, self.population)
        return jnp.concatenate([labels, rest])


def bind_vocabulary(prompt: _Module, embedding: Any, encode: Encode | None = None) -> _Module:
    """Binds every initializer of a prompt that needs the model's embeddings.

    Args:
        prompt: the prompt; it is left as it is.
        embedding: the model's table `[vocabulary, embed]`, of any float type.
        encode: turns text into the ids of its pieces; only `ClassLabels` needs it.

    Returns:
        The prompt with those initializers bound, ready for `initialize`.

    Raises:
        ValueError: if an initializer needs `encode` and it is missing.
    """
    bound: dict[str, Any] = {
        name: value.bind(embedding, encode)
        for name, value in _fields(prompt).items()
        if isinstance(value, VocabularyInitializer)
    }
    return prompt.clone(parent=None, **bound)


def shape_only(prompt: _Module) -> _Module:
    """Returns a copy of a prompt that has the same parameters, all of them starting at 0.

    For the places that trace an initialization only to learn shapes and axes: these must need
    neither the model's embeddings nor a file that a prompt starts from. Initializers are the
    fields whose names end in `_init`.
    """
    zeros: dict[str, Any] = {
        name: nn.initializers.zeros
        for name, value in _fields(prompt).items()
        if name.endswith("_init") or isinstance(value, VocabularyInitializer)
    }
    return prompt.clone(parent=None, **zeros)


def _fields(prompt: nn.Module) -> dict[str, Any]:
    return {field.name: getattr(prompt, field.name) for field in dataclasses.fields(prompt)}


def _sample_rows(
    key: jax.Array, count: int, embedding: Float[Array, "vocabulary embed"], population: int
) -> Float[Array, "count embed"]:
    available = min(population, embedding.shape[0] - _SPECIAL_IDS)
    if available < 1:
        raise ValueError(
            f"The embedding table has {embedding.shape[0]} rows, but sampling a prompt needs more "
            f"than the {_SPECIAL_IDS} for padding, end of sequence and unknown."
        )
    ids = _SPECIAL_IDS + jax.random.choice(key, available, (count,), replace=count > available)
    return jnp.take(embedding, ids, axis=0).astype(jnp.float32)


def _require_population(initializer: Any) -> None:
    if initializer.population < 1:
        raise ValueError(
            f"initializers.{type(initializer).__name__}.population is {initializer.population!r}, "
            "but must be a whole number of at least 1."
        )
