"""From a configuration to arrays on devices: the backbone, the prompt, the training state."""

import logging
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prompts import SoftPrompt, bind_vocabulary, shape_only
from dpt_jax.training import partitioning
from dpt_jax.training.state import Params, TrainState


def abstract_variables(model: Transformer) -> Any:
    """Shapes and logical axes of the model's variables, without computing any."""
    if model.prompt is not None:
        # Initializers may read files or the embedding table, which shapes do not need.
        model = model.clone(prompt=shape_only(model.prompt))
    tokens = jnp.zeros((1, 8), jnp.int32)
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)
    )


def load_frozen(path: str | None, config: T5Config, seed: int, cache: str | None = None) -> Params:
    """The backbone's parameters as NumPy arrays; random ones when `path` is None.

    With `cache`, a model in another format than ours is kept converted in that folder.
    """
    if path is None:
        logging.warning("INITIAL_CHECKPOINT_PATH is None: the backbone has random weights.")
        tokens = jnp.zeros((1, 8), jnp.int32)
        init = jax.jit(lambda key: Transformer(config).init(key, tokens, tokens, tokens))
        return jax.tree.map(np.asarray, init(jax.random.key(seed))["params"])
    return load_backbone(path, config, cache)[1]


def init_prompt(prompt: SoftPrompt, backbone: Params, vocabulary: Any, seed: int) -> Params:
    """Draws the prompt's first parameters; initializers see the backbone's embedding table.

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


def place(params: Params, shardings: Params, dtype: Any = None) -> Params:
    """Puts parameters on their devices, floats cast to `dtype` where it is given."""

    def put(x, sharding):
        x = np.asarray(x)
        return jax.device_put(x.astype(jnp.dtype(dtype)) if dtype is not None else x, sharding)

    flat, where = flatten_dict(params, sep="/"), flatten_dict(shardings, sep="/")
    placed = {name: put(x, where[name]) for name, x in flat.items()}
    return unflatten_dict(placed, sep="/")


def make_state(
    params: Params,
    shardings: Params,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """The state at step 0; optimizer slots live where their parameters live."""

    def create(params):
        return TrainState.create(params, optimizer, seed)

    abstract = jax.eval_shape(create, params)
    everywhere = partitioning.replicated(mesh)

    def slot_sharding(slot, param, sharding):
        # Adafactor's factored slots have another shape than their parameter.
        return sharding if slot.shape == param.shape else everywhere

    opt_shardings = optax.tree_utils.tree_map_params(
        optimizer,
        slot_sharding,
        abstract.opt_state,
        abstract.params,
        shardings,
        transform_non_params=lambda _: everywhere,
    )
    out: Any = abstract.replace(
        step=everywhere, params=shardings, opt_state=opt_shardings, rng=everywhere
    )
    return jax.jit(create, out_shardings=out)(params)


def fingerprint(params: Params) -> int:
    """A checksum that tells one backbone from another: names, shapes and first values."""
    crc = 0
    for name, value in sorted(flatten_dict(params, sep="/").items()):
        head = np.asarray(value).reshape(-1)[:256].astype(np.float32)
        crc = zlib.crc32(f"{name}{np.shape(value)}".encode() + head.tobytes(), crc)
    return crc
