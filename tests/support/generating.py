"""Generates on meshes of 4 virtual devices: `python -m tests.support.generating`.

Prints one JSON object: tokens by mesh and number of beams, and on how many devices they lie.
"""

import itertools
import json

import jax
import numpy as np

from dpt_jax.devices import partitioning
from dpt_jax.evaluation.generation import Generator
from dpt_jax.models import Transformer
from dpt_jax.models.network import abstract_variables
from dpt_jax.prompts import VanillaPrompt
from tests.support import runs

MESHES = ((4, 1, 1), (2, 1, 2))
BEAMS = (1, 3)
LENGTH = 5
ROWS = np.random.default_rng(0).integers(2, 264, (8, 6), dtype=np.int32)
PROMPT = np.random.default_rng(1).normal(size=(runs.PROMPT_LENGTH, runs.WIDTH)).astype(np.float32)
MODEL = Transformer(runs.T5, VanillaPrompt(*PROMPT.shape))


def generate(shape, beams):
    """Tokens for `ROWS`, as they come off the devices."""
    mesh = partitioning.make_mesh(shape)
    shardings = partitioning.parameter_shardings(abstract_variables(Transformer(runs.T5)), mesh)
    params = jax.device_put(runs.random_parameters(), shardings)
    with partitioning.activate(mesh):
        tokens = partitioning.put_batch({"tokens": ROWS}, mesh)["tokens"]
        generator = Generator(MODEL, mesh, LENGTH, beams)
        return generator(params | {"prompt": {"prompt": PROMPT}}, tokens)


if __name__ == "__main__":
    found = {}
    for mesh, beams in itertools.product(MESHES, BEAMS):
        tokens = generate(mesh, beams)
        name = f"{'x'.join(map(str, mesh))}, {beams} beams"
        found[name] = {"tokens": tokens.tolist(), "devices": len(tokens.devices())}
    print(json.dumps(found))
