"""The parameters that a ViT should have, by name and shape, and new views of stored ones."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from flax.traverse_util import flatten_dict

from dpt_jax.interop.parameters import check_shapes
from dpt_jax.models.vit import VisionTransformer, ViTConfig, abstract_variables
from dpt_jax.tensors import Shape, Tensor

# Those of the head, which a classifier has and its own data decides.
HEAD = ("head/kernel", "head/bias")


def parameter_shapes(config: ViTConfig) -> dict[str, Shape]:
    """Names (joined with "/") and shapes of every parameter of `VisionTransformer(config)`."""
    one = abstract_variables(VisionTransformer(dataclasses.replace(config, num_layers=1)))
    shapes = {}
    for name, leaf in flatten_dict(one["params"], sep="/").items():
        if "/layers_0/" in name:
            for i in range(config.num_layers):
                shapes[name.replace("/layers_0/", f"/layers_{i}/")] = leaf.shape
        else:
            shapes[name] = leaf.shape
    return shapes


def check_parameters(
    path: str, found: Mapping[str, Shape], config: ViTConfig, configured_by: str, remedy: str
) -> None:
    """Checks that the stored parameters are those of `VisionTransformer(config)`.

    Arguments are those of `dpt_jax.interop.parameters.check_parameters`.

    Raises:
      InputError: names the first parameter that is missing, of another shape, or unknown.
    """
    layers = min(config.num_layers, len(found) + 1)
    wanted = parameter_shapes(dataclasses.replace(config, num_layers=layers))
    check_shapes(path, found, wanted, configured_by, remedy)


def mapped(tensor: Tensor, shape: Shape, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """A tensor whose array is changed when it is read."""
    return Tensor(shape, tensor.dtype, lambda: change(tensor.read()), tensor.release)


def reshaped(tensor: Tensor, *shape: int) -> Tensor:
    """The same numbers in another shape."""
    return mapped(tensor, shape, lambda array: array.reshape(shape))
