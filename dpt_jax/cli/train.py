r"""Train a soft prompt on a frozen T5, or continue a run by naming its MODEL_DIR again.

dpt train --gin_file=runs/prompt_train.gin --gin_file=models/t5_1_1_base.gin \
      --gin_file=recipes/paper.gin --gin.MODEL_DIR="'runs/rte'" \
      --gin.INITIAL_CHECKPOINT_PATH="'path/to/t5'" \
      --gin.MIXTURE_OR_TASK_NAME="'my_task'" --gin.MIXTURE_OR_TASK_MODULE="'my_tasks'"
"""

import argparse
import json

HELP = "train a soft prompt on a frozen T5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds T5X's gin flags; `--gin.NAME=VALUE` is handled in main."""
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file, repeatable; later ones override earlier ones",
    )
    parser.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="DIR",
        help="folder to look for gin files in, repeatable or separated by commas",
    )


def search_paths(args: argparse.Namespace) -> list[str]:
    """The folders of `--gin_search_paths`."""
    return [path for paths in args.gin_search_paths for path in paths.split(",") if path]


def run(args: argparse.Namespace) -> None:
    """Runs the training that the gin files and bindings describe."""
    from dpt_jax import gin_utils
    from dpt_jax.errors import InputError

    if not args.gin_file:
        raise InputError(
            "Say what to train: --gin_file=runs/prompt_train.gin --gin_file=models/....gin "
            "--gin_file=prompts/....gin (see dpt train --help)."
        )
    gin_utils.parse(args.gin_file, args.gin_bindings, search_paths(args))

    from dpt_jax.training import trainer
    from dpt_jax.training.config import RunConfig

    config = gin_utils.build(RunConfig)
    print(json.dumps(trainer.train(config, gin_utils.operative_config)))
