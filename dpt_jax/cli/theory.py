"""Run the experiments on the theory of prompts and prefixes, one or all, and say what was found.

  dpt theory separation
  dpt theory all                          # all of them, under 20 minutes on two cores
  dpt theory sharing-rates --full         # at larger sizes, for an evening
  dpt theory three-steps --set repeats=5 --set "heads=(0.3, 0.5)" --output=runs/mine

Every experiment has a folder of its own under --output, with results.jsonl (a line for each cell of
its grid), settings.json, table.md and figure.png (and .pdf). One that was stopped is continued by
the same command. docs/theory.md tells what the experiments are about.
"""

import argparse

from dpt_jax.cli import outputs

HELP = "run the experiments on the theory of prompts and prefixes"
ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("name", metavar="NAME", help="an experiment, or all")
    parser.add_argument("--full", action="store_true", help="at larger sizes")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="changes a setting of the experiment, such as seed=1 or repeats=5; may be repeated",
    )
    parser.add_argument(
        "--output", default="runs/theory", metavar="DIR", help="default: runs/theory"
    )


def run(args: argparse.Namespace) -> None:
    """Runs what is asked for; the table of each goes to standard output."""
    from dpt_jax.cli.console import print_table, say
    from dpt_jax.errors import InputError, nearest_names
    from dpt_jax.theory.experiments import EXPERIMENTS
    from dpt_jax.theory.experiments.base import run as run_experiment

    if args.gin_bindings:
        raise InputError("dpt theory takes no --gin. bindings; use --set NAME=VALUE.")
    names = [*EXPERIMENTS, ALL]
    if args.name not in names:
        raise InputError(
            f"There is no experiment {args.name!r}; there are {', '.join(names)}."
            f"{nearest_names(args.name, names)}"
        )
    if args.name == ALL and args.set:
        raise InputError("--set is for one experiment; name it, as in dpt theory debiasing.")
    chosen = EXPERIMENTS.values() if args.name == ALL else [EXPERIMENTS[args.name]]
    output = outputs.require_folder(args.output, "--output")
    for experiment in chosen:
        settings = experiment.make_settings(args.full, args.set)
        table = run_experiment(experiment, settings, output / experiment.name, say)
        print_table(table.header, table.rows, left=table.labels, title=experiment.title)
        print("\n".join([table.caption, *table.notes]))
