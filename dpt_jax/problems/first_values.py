"""What a run's parameters are before its first step: the frozen T5's, a prompt's and a prefix's."""

import logging
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from dpt_jax.errors import InputError
from dpt_jax.interop import open_backbone
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import SoftPrompt, bind_vocabulary
from dpt_jax.tensors import in_memory
from dpt_jax.training.state import Params


def open_frozen(path: str | None, config: T5Config, seed: int) -> Params:
    """The backbone's parameters as tensors that are not read yet; random ones for `path` None."""
    if path is None:
        logging.warning("INITIAL_CHECKPOINT_PATH is None: the backbone has random weights.")
        tokens = jnp.zeros((1, 8), jnp.int32)
        init = jax.jit(lambda key: Transformer(config).init(key, tokens, tokens, tokens))
        return jax.tree.map(in_memory, init(jax.random.key(seed))["params"])
    return unflatten_dict(open_backbone(path, config).tensors, sep="/")


def init_prompt(prompt: SoftPrompt, backbone: Params, vocabulary: Any, seed: int) -> Params:
    """Draws the prompt's first parameters; an initializer may read the backbone's embeddings.

    Raises:
      InputError: when an initializer cannot serve this prompt, as a file of another width.
    """
    embedding = backbone["token_embedder"]["embedding"]
    try:
        bound = bind_vocabulary(prompt, embedding, vocabulary.encode)
        return bound.initialize(jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"prompt")))
    except (ValueError, OSError) as e:
        remedy = (
            "" if "PROMPT" in str(e) else " Set --gin.PROMPT_FILE or use another prompt gin file."
        )
        raise InputError(f"The prompt cannot be initialized: {e}{remedy}") from e


def init_prefix(
    prefix: Prefix, config: T5Config, backbone: Params, vocabulary: Any, seed: int
) -> Params:
    """Draws the prefix's first parameters, as `init_prompt` does a prompt's."""
    embedding = backbone["token_embedder"]["embedding"]
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"prefix"))
    try:
        bound = bind_vocabulary(prefix, embedding, vocabulary.encode)
        return jax.jit(bound.initialize, static_argnums=1)(key, config)
    except (ValueError, OSError) as e:
        raise InputError(
            f"The prefix cannot be initialized: {e} Use another prefix gin file."
        ) from e
