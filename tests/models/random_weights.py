"""Random T5 parameters made with NumPy: drawing them in JAX takes seconds to compile."""

import numpy as np
from flax.traverse_util import unflatten_dict

from dpt_jax.interop.parameters import parameter_shapes


def random_parameters(config, seed=0):
    """Every parameter of `Transformer(config)`, float32, none at a value that hides a mistake."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        noise = rng.normal(size=shape).astype(np.float32)
        if name.endswith("/scale"):
            return 1 + 0.3 * noise
        if name.endswith("/kernel"):
            return noise * np.float32(shape[0] ** -0.5)
        return noise

    return unflatten_dict(
        {name: draw(name, shape) for name, shape in parameter_shapes(config).items()}, sep="/"
    )
