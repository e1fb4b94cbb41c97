r"""Train a soft prompt on a frozen T5, or continue a run by naming its MODEL_DIR again.

dpt train --model=path/to/t5 --task=dpt_rte --recipe=paper --output=runs/rte

The sizes of the network are read from the model's folder, and so is the vocabulary of SuperGLUE's
tasks where it lies there. The same in full, gin file by gin file:

dpt train --gin_file=runs/prompt_train.gin --gin_file=models/t5_1_1_base.gin \
      --gin_file=recipes/paper.gin --gin.INITIAL_CHECKPOINT_PATH=path/to/t5 \
      --gin.MIXTURE_OR_TASK_NAME=my_task --gin.MIXTURE_OR_TASK_MODULE=my_tasks \
      --gin.MODEL_DIR=runs/mine

Both can be mixed; gin files come after the short flags, and --gin.NAME=VALUE sets a macro whatever
the files say. docs/settings.md lists them all.

The same command in every process trains over several of them. They find each other by themselves on
Cloud TPU, in indexed Kubernetes jobs (GKE), Slurm and Open MPI; elsewhere give all three of
--coordinator_address, --num_processes and --process_id.
"""

import argparse
import dataclasses
import json

from dpt_jax.cli import short_flags
from dpt_jax.cli.gin_flags import add_gin_flags, search_paths

HELP = "train a soft prompt on a frozen T5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the short flags and T5X's gin flags; `--gin.NAME=VALUE` is handled in main."""
    short_flags.add_flags(parser)
    add_gin_flags(parser, "gin file, repeatable; later ones override earlier ones")
    processes = parser.add_argument_group("several processes")
    processes.add_argument(
        "--coordinator_address",
        metavar="HOST:PORT",
        help="machine of process 0 and a free port of it (or JAX_COORDINATOR_ADDRESS)",
    )
    processes.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="processes of the run (or JAX_NUM_PROCESSES); 1 never looks for others",
    )
    processes.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="number of this process, from 0 (or JAX_PROCESS_ID)",
    )
    processes.add_argument(
        "--initialization_timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long to wait until all processes are there (%(default)s)",
    )
    processes.add_argument(
        "--heartbeat_timeout",
        type=int,
        default=100,
        metavar="SECONDS",
        help="a process silent for so long is taken for dead, and the others stop (%(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the training that the gin files and bindings describe."""
    from dpt_jax import gin_utils
    from dpt_jax.errors import InputError

    paths = search_paths(args)
    short = short_flags.given(args, paths) or short_flags.Given([], [])
    files, bindings = [*short.files, *args.gin_file], [*short.bindings, *args.gin_bindings]
    if not files:
        raise InputError(
            "Say what to train: --model=path/to/t5 --task=NAME --output=DIR, or "
            "--gin_file=runs/prompt_train.gin --gin_file=models/....gin --gin_file=prompts/....gin "
            "(see dpt train --help)."
        )

    from dpt_jax.devices import agreement
    from dpt_jax.devices.launch import Launch, running

    names = [field.name for field in dataclasses.fields(Launch)]
    launch = Launch(**{name: getattr(args, name) for name in names})
    with running(launch):
        with agreement.raise_everywhere():
            gin_utils.parse(files, bindings, paths, of_run=True)
            gin_utils.check_flags(args.gin_bindings)

            from dpt_jax.problems import kinds

            config = kinds.build()
        agreement.check_same("gin bindings", gin_utils.bindings())
        summary = kinds.train(config, gin_utils.operative_config)
        if agreement.is_first():
            print(json.dumps(summary))
