"""Trains the toy run on several meshes of 8 virtual devices: `python -m tests.support.meshes`.

The arguments are a folder, the backbone and, for a run of a prefix on one of the meshes, "prefix";
the results are the runs in that folder, named by their meshes, and the shapes of the parameters'
shards as JSON on standard output.
"""

import json
import pathlib
import sys

from flax.traverse_util import flatten_dict

from dpt_jax.prefixes import STACKS, FreePrefix
from dpt_jax.problems import text
from dpt_jax.training import run
from tests.support import runs

MESHES = ((8, 1, 1), (2, 2, 2), (1, 1, 8))
STEPS = 20
# The same run as `config` on the command line, saved more often.
MACROS = {
    "TRAIN_STEPS": STEPS,
    "EVAL_PERIOD": STEPS,
    "config.RunConfig.checkpoint_period": 2,
    "config.RunConfig.log_period": 1,
    "NUM_BUCKETS": 1,
    "MICROBATCHES": 2,
    "MIXTURE_OR_TASK_NAME": "toy_mixture",
    "optax.adamw.weight_decay": 1e-4,
}


def config(folder, backbone, mesh):
    """Twenty steps in one bucket, with an evaluation at the end."""
    return runs.run_config(
        folder,
        backbone,
        mesh=mesh,
        train_steps=STEPS,
        eval_period=STEPS,
        log_period=1,
        num_buckets=1,
        microbatches=2,
        mixture_or_task_name="toy_mixture",
    )


def prefix_config(folder, backbone, mesh):
    """Five steps of a prefix whose parameters have the model's heads."""
    return runs.run_config(
        folder,
        backbone,
        mesh=mesh,
        prompt=None,
        prefix=FreePrefix(3, STACKS),
        train_steps=5,
        eval_period=0,
        log_period=1,
        num_buckets=1,
    )


if __name__ == "__main__":
    with_prefix = sys.argv[3:] == ["prefix"]
    make_config = prefix_config if with_prefix else config
    placed = []
    place = run.place

    def noted(*args):
        placed.append(place(*args))
        return placed[-1]

    run.place = noted
    shards = {}
    for mesh in [(2, 2, 2)] if with_prefix else MESHES:
        name = "x".join(map(str, mesh))
        placed.clear()
        text.train(make_config(pathlib.Path(sys.argv[1]) / name, sys.argv[2], mesh))
        shards[name] = {
            key: list(array.addressable_shards[0].data.shape)
            for tree in placed
            for key, array in flatten_dict(tree, sep="/").items()
        }
    print(json.dumps(shards))
