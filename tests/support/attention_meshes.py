"""Attention on a mesh: `python -m tests.support.attention_meshes IMPLEMENTATION LENGTH`.

The TPU's kernels are interpreted. Needs 4 devices. Prints, as JSON, how far values and gradients
are from attention written down on one device, and which collectives the program for the mesh has.
"""

import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dpt_jax.devices import partitioning
from dpt_jax.models import attention, tpu_attention


def value_and_gradients(implementation, operands, key_mask):
    def loss(*operands):
        out = attention.attend(*operands, key_mask, implementation=implementation)
        return jnp.sum(jnp.sin(out))

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(*operands)


if __name__ == "__main__":
    implementation, length = sys.argv[1], int(sys.argv[2])
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(3, 2, 2, length, 8)).astype(np.float32)
    bias = rng.normal(size=(1, 2, length, length)).astype(np.float32)
    operands = (queries, keys, values, bias)
    key_mask = rng.random((2, length)) < 0.7
    expected = value_and_gradients("plain", operands, key_mask)
    tpu_attention.attend = functools.partial(tpu_attention.attend, interpret=True)
    mesh = partitioning.make_mesh((2, 1, 2))
    with partitioning.activate(mesh):
        spec = jax.sharding.PartitionSpec
        by_row = jax.NamedSharding(mesh, spec(("data", "fsdp"), "model"))
        places = (by_row, by_row, by_row, jax.NamedSharding(mesh, spec(None, "model")))
        step = jax.jit(
            functools.partial(value_and_gradients, implementation),
            in_shardings=(places, jax.NamedSharding(mesh, spec(("data", "fsdp")))),
            out_shardings=(None, places),
        )
        compiled = step.lower(operands, key_mask).compile()
        placed = jax.device_put((operands, key_mask), compiled.input_shardings[0])
        found = compiled(*placed)
    errors = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), found, expected
    )
    kinds = r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    collectives = sorted(set(re.findall(kinds, compiled.as_text())))
    json.dump({"error": max(jax.tree.leaves(errors)), "collectives": collectives}, sys.stdout)
