"""A ViT of a few thousand parameters, and what makes others of it."""

import functools

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dpt_jax.models.vit import VisionTransformer, ViTConfig
from dpt_jax.tensors import in_memory

# Every size that a mesh may split is a multiple of 4.
CONFIG = ViTConfig(
    image_size=8,
    patch_size=4,
    channels=3,
    emb_dim=16,
    num_layers=2,
    num_heads=4,
    mlp_dim=24,
    num_classes=4,
)


@functools.cache
def flat_parameters(config: ViTConfig = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters by their joined names, none of them zero or one."""
    from dpt_jax.interop.vit.parameters import parameter_shapes

    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 0.3 + name.endswith("scale")).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }


def parameters(config: ViTConfig = CONFIG, seed: int = 0):
    """The same as a tree."""
    return unflatten_dict(flat_parameters(config, seed), sep="/")


def tensors(config: ViTConfig = CONFIG, seed: int = 0):
    """The same as tensors by name."""
    return {name: in_memory(array) for name, array in flat_parameters(config, seed).items()}


def images(count: int = 3, config: ViTConfig = CONFIG, seed: int = 1) -> np.ndarray:
    """Normalized images."""
    shape = (count, config.image_size, config.image_size, config.channels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def applied(model: VisionTransformer, method: str = "__call__"):
    """The compiled network, `(params, images)`."""
    return jax.jit(lambda params, x: model.apply({"params": params}, x, method=method))


def own(model: VisionTransformer, params, seed: int = 2):
    """`params` with random ones for what the model has besides: prompts and prefixes."""
    from dpt_jax.models.vit import abstract_variables

    rng = np.random.default_rng(seed)
    wanted = flatten_dict(abstract_variables(model)["params"], sep="/")
    have = flatten_dict(params, sep="/")
    return unflatten_dict(
        {
            name: have.get(name, rng.normal(size=leaf.shape).astype(np.float32) * 0.5)
            for name, leaf in wanted.items()
        },
        sep="/",
    )
