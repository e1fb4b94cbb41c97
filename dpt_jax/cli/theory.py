"""Run the experiments on the theory of prompts and prefixes, one or all, and say what was found.

  dpt theory separation
  dpt theory all                          # all of them, under 20 minutes on two cores
  dpt theory sharing-rates --full         # at larger sizes, for an evening
  dpt theory bridge --model_dir=runs/wordsense   # the same quantities for a prompt of the demo's T5
  dpt theory three-steps --set repeats=5 --set "heads=(0.3, 0.5)" --output=runs/mine

Every experiment has a folder of its own under --output, with results.jsonl (a line for each cell of
its grid), settings.json, table.md and figure.png (and .pdf). One that was stopped is continued by
the same command. docs/theory.md tells what the experiments are about.
"""

import argparse

from dpt_jax.cli import outputs, runs, theory_bridge

HELP = "run the experiments on the theory of prompts and prefixes"
ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("name", metavar="NAME", help="an experiment, all, or bridge")
    parser.add_argument("--full", action="store_true", help="at larger sizes")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="changes a setting of the experiment, such as seed=1 or repeats=5; may be repeated",
    )
    runs.add_arguments(parser)
    parser.add_argument(
        "--output", default="runs/theory", metavar="DIR", help="default: runs/theory"
    )


def run(args: argparse.Namespace) -> None:
    """Runs what is asked for; the table of each goes to standard output."""
    from dpt_jax.cli.console import print_table, say
    from dpt_jax.errors import InputError, nearest_names
    from dpt_jax.theory.experiments import EXPERIMENTS
    from dpt_jax.theory.experiments.base import run as run_experiment

    names = [*EXPERIMENTS, ALL, theory_bridge.NAME]
    if args.name not in names:
        raise InputError(
            f"There is no experiment {args.name!r}; there are {', '.join(names)}."
            f"{nearest_names(args.name, names)}"
        )
    if args.name == ALL and args.set:
        raise InputError("--set is for one experiment; name it, as in dpt theory debiasing.")
    if args.name == theory_bridge.NAME:
        _bridge(args)
        return
    if args.gin_bindings or args.gin_file or args.model_dir:
        raise InputError(
            f"--model_dir and gin files are for dpt theory {theory_bridge.NAME}; an experiment "
            "takes --set NAME=VALUE."
        )
    chosen = EXPERIMENTS.values() if args.name == ALL else [EXPERIMENTS[args.name]]
    output = outputs.require_folder(args.output, "--output")
    for experiment in chosen:
        settings = experiment.make_settings(args.full, args.set)
        table = run_experiment(experiment, settings, output / experiment.name, say)
        print_table(table.header, table.rows, left=table.labels, title=experiment.title)
        print("\n".join([table.caption, *table.notes]))


def _bridge(args: argparse.Namespace) -> None:
    """Measures a trained prompt and the one it began as."""
    from dpt_jax import inference, run_files
    from dpt_jax.cli.console import print_table
    from dpt_jax.errors import InputError
    from dpt_jax.files import write_json_lines, write_text
    from dpt_jax.interop import load_prompt

    if args.model_dir is None:
        raise InputError(f"Name a run of {theory_bridge.TASK} with --model_dir.")
    folder = outputs.require_folder(args.output, "--output") / theory_bridge.NAME
    config = runs.load_config(args)
    if config.prompt is None:
        raise InputError(f"--model_dir = {args.model_dir} has no prompt; name a run with one.")
    if config.prefix is not None:
        raise InputError(
            f"--model_dir = {args.model_dir} has a prefix beside its prompt; name a run with a "
            "prompt alone."
        )
    prepared = inference.prepare_for(config, args.model_dir)
    step = inference.step_of_run(args.model_dir, args.step)
    path = run_files.numpy_checkpoint(args.model_dir, step)
    trained = load_prompt(path, embed_dim=config.model.emb_dim, flag="--model_dir")
    first = config.prompt.fold(prepared.initial()["prompt"])
    rows = theory_bridge.measure(config, {"untrained": first, "trained": trained}, prepared)
    table = theory_bridge.table(rows)
    write_json_lines(folder / "results.jsonl", rows)
    write_text(folder / "table.md", table.markdown())
    print_table(table.header, table.rows, left=table.labels, title="A prompt on the demo's T5")
    print(table.caption)
