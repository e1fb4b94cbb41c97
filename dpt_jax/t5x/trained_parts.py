"""What is trained beside a frozen T5: a soft prompt, a prefix, or both."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import jax
import numpy as np
from jax.experimental import multihost_utils

from dpt_jax.errors import InputError
from dpt_jax.interop.adapters import Adapter
from dpt_jax.interop.prefixes import FoldedPrefix
from dpt_jax.models import T5Config, Transformer
from dpt_jax.models.network import fold_prefix
from dpt_jax.models.residual_norm import residual_norm
from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import (
    NO_MODEL,
    SoftPrompt,
    VocabularyInitializer,
    bind_residual_norm,
    bind_vocabulary,
    needs_residual_norm,
)
from dpt_jax.t5x.arrays import host_array

#: The names of the trained parameters in the tree, beside `encoder` and `decoder`.
PROMPT, PREFIX = "prompt", "prefix"
TRAINED = (PROMPT, PREFIX)


def trained_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The trained parameters of a tree, or what goes with them, by `TRAINED`."""
    return {name: flax.core.unfreeze(tree[name]) for name in TRAINED if name in tree}


def start_key(seed: int | None) -> jax.Array:
    """The random key of a run's start: that of `dpt train` with the same RANDOM_SEED."""
    if seed is None:
        # As T5X does: an arbitrary seed, but the same on every host.
        seed = int(multihost_utils.broadcast_one_to_all(np.random.randint(2**31, dtype=np.int32)))
    return jax.random.key(seed, impl="threefry2x32")


@dataclasses.dataclass(frozen=True)
class TrainedParts:
    """The prompt and the prefix of a network; one of them may be None.

    Attributes:
      prompt: PROMPT.
      prefix: PREFIX.
      config: the network's shape, and the type of its activations.
    """

    prompt: SoftPrompt | None
    prefix: Prefix | None
    config: T5Config | None

    @property
    def needs_model(self) -> bool:
        """Whether one of them starts from the model's embeddings, or at a norm measured on it."""
        return needs_residual_norm(self.prompt) or any(
            isinstance(getattr(part, field.name), VocabularyInitializer)
            for part in (self.prompt, self.prefix)
            if part is not None
            for field in dataclasses.fields(part)
        )

    def measure(
        self, params: Mapping[str, Any], text: Callable[[], np.ndarray] | None = None
    ) -> dict[str, float]:
        """What `draw` needs to know of the pretrained model, by name; all hosts must call.

        Args:
          params: the frozen parameters.
          text: gives token ids `[rows, length]` to measure on; None for `sample_tokens`.

        Raises:
          InputError: what was measured is of no use.
        """
        if not needs_residual_norm(self.prompt):
            return {}
        assert self.config is not None
        tokens = text and text()
        return {"residual_norm": residual_norm(self.config, params, tokens, host_array)}

    def draw(
        self,
        key: jax.Array,
        embedding: Any = None,
        vocabulary: Any = None,
        measured: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Draws the first parameters.

        Args:
          key: a JAX random key, of which each part has its own.
          embedding: the restored table `[vocabulary, embed]`, where `needs_model`.
          vocabulary: the SeqIO vocabulary; only class labels need it.
          measured: what `measure` gives; None where there is no pretrained model.

        Returns:
          The parameters under `TRAINED`, nested dicts of float32 numpy arrays.

        Raises:
          InputError: an initializer cannot serve, such as a file of another shape.
        """
        encode = vocabulary.encode if vocabulary else None
        if measured is None and needs_residual_norm(self.prompt):
            raise InputError(NO_MODEL)

        def first(name: str, part: Any, initialize: Callable[..., Any]) -> Any:
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            try:
                part = bind_residual_norm(part, lambda: (measured or {})["residual_norm"])
                drawn = initialize(bind_vocabulary(part, embedding, encode), own)
            except (ValueError, OSError) as error:
                raise InputError(f"The {name} cannot be initialized: {error}") from error
            return jax.tree.map(np.asarray, drawn)

        drawn = {}
        if self.prompt is not None:
            drawn[PROMPT] = first(PROMPT, self.prompt, lambda prompt, own: prompt.initialize(own))
        if self.prefix is not None:
            drawn[PREFIX] = first(
                PREFIX,
                self.prefix,
                # Compiled, as `dpt train` does it: rounding would tell the two apart.
                lambda prefix, own: jax.jit(prefix.initialize, static_argnums=1)(own, self.config),
            )
        return drawn

    def fold(self, params: Mapping[str, Any]) -> Adapter:
        """The plain prompt and prefix that parameters stand for; all hosts must call.

        Args:
          params: the network's parameters. The frozen ones are read where the prefix goes through
            them.
        """
        prompt = prefix = None
        if self.prompt is not None:
            prompt = self.prompt.fold(jax.tree.map(host_array, trained_of(params)[PROMPT]))
        if self.prefix is not None:
            arrays = jax.tree.map(host_array, self._fold_prefix(dict(params)))
            prefix = FoldedPrefix(arrays, self.prefix.position_bias)
        return Adapter(prompt, prefix)

    @functools.cached_property
    def _fold_prefix(self) -> Callable[[Any], dict[str, jax.Array]]:
        assert self.config is not None
        network = Transformer(self.config, None, self.prefix)
        return jax.jit(functools.partial(fold_prefix, network))
