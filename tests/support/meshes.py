"""Trains the toy run on several meshes of 8 virtual devices: `python -m tests.support.meshes`.

The arguments are a folder and the backbone; the results are the runs in that folder, named by their
meshes, and the shapes of the parameters' shards as JSON on standard output.
"""

import json
import pathlib
import sys

from flax.traverse_util import flatten_dict

from dpt_jax.training import trainer
from tests.support import runs

MESHES = ((8, 1, 1), (2, 2, 2), (1, 1, 8), (1, 4, 2))


def config(folder, backbone, mesh):
    """Ten steps in one bucket, with an evaluation at the end."""
    return runs.run_config(
        folder,
        backbone,
        mesh=mesh,
        train_steps=10,
        eval_period=10,
        log_period=1,
        num_buckets=1,
        microbatches=2,
        mixture_or_task_name="toy_mixture",
    )


if __name__ == "__main__":
    made = []

    class Spy(trainer._Run):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    trainer._Run = Spy
    shards = {}
    for mesh in MESHES:
        name = "x".join(map(str, mesh))
        trainer.train(config(pathlib.Path(sys.argv[1]) / name, sys.argv[2], mesh))
        run = made.pop()
        everything = flatten_dict({"frozen": run.frozen, "trained": run.state.params}, sep="/")
        shards[name] = {
            key: list(array.addressable_shards[0].data.shape) for key, array in everything.items()
        }
    print(json.dumps(shards))
