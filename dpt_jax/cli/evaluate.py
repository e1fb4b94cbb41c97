"""Evaluate a run's prompt, or any prompt, on the task's validation split.

  dpt evaluate --model_dir=runs/rte
  dpt evaluate --model_dir=runs/rte --prompt=prompt.npy --split=test
  dpt evaluate --model_dir=runs/rte --scoring=rank
  dpt evaluate --gin_file=... --prompt=prompt.npy
  dpt evaluate --model_dir=runs/rte --submission=superglue.zip

Prints one JSON object: {"prompt": ..., "metrics": {task: {metric: value}}}.
--submission writes the answers to the unlabelled test split into a zip in the form that SuperGLUE's
server takes, and leaves the metrics out; files of other tasks that are in the zip stay there.
"""

import argparse
import pathlib
from typing import Any

from dpt_jax.cli import outputs, runs
from dpt_jax.cli.console import say

HELP = "evaluate a prompt on a task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    runs.add_arguments(parser)
    parser.add_argument(
        "--prompt", metavar="PATH", help="a prompt or prefix of any format, not the run's own"
    )
    parser.add_argument("--no_prompt", action="store_true", help="evaluate the bare model")
    parser.add_argument("--split", metavar="NAME", help="split to evaluate on")
    parser.add_argument(
        "--scoring",
        metavar="HOW",
        help="generation, or rank: the most probable of each row's candidates (default: the run's)",
    )
    parser.add_argument(
        "--predictions", metavar="DIR", help="also write <task>_<prompt>.jsonl into this folder"
    )
    parser.add_argument(
        "--submission",
        metavar="ZIP",
        help="write the answers for SuperGLUE's server and no scores (default split: test)",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluates and prints."""
    from dpt_jax.errors import InputError
    from dpt_jax.interop.adapters import Adapter, load_adapter

    if args.prompt and args.no_prompt:
        raise InputError("--prompt and --no_prompt exclude each other.")
    if args.model_dir is None and not (args.prompt or args.no_prompt):
        raise InputError("Name what to evaluate: --model_dir, --prompt or --no_prompt.")
    if args.predictions:
        outputs.require_folder(args.predictions, "--predictions")
    if args.submission:
        outputs.require_file(args.submission, "--submission")
    config = runs.load_config(args)
    if runs.is_of_images(config):
        return _run_on_images(args, config)

    import dataclasses

    from dpt_jax import inference
    from dpt_jax.cli import submission
    from dpt_jax.evaluation.evaluator import averages
    from dpt_jax.files import json_dumps, write_json_lines
    from dpt_jax.paths import as_path
    from dpt_jax.training.config import SCORINGS

    if split := args.split or ("test" if args.submission else None):
        config = dataclasses.replace(config, eval_split=split)
    if args.scoring:
        if args.scoring not in SCORINGS:
            raise InputError(f"--scoring is {args.scoring!r}; it takes {' or '.join(SCORINGS)}.")
        config = dataclasses.replace(config, scoring=args.scoring)
    adapter, trained_step, name = Adapter(), None, "no_prompt"
    if args.prompt:
        adapter = load_adapter(
            args.prompt,
            config.model.emb_dim,
            decoder_layers=config.model.num_decoder_layers,
        )
        name = pathlib.Path(args.prompt).stem
    elif not args.no_prompt:
        step = inference.step_of_run(args.model_dir, args.step)
        name, trained_step = str(step), step
        adapter = inference.adapter_of_run(config, args.model_dir, step)
    prepared = inference.prepare_for(config, args.model_dir)
    if args.submission:
        submission.require_superglue(prepared.task, args.submission)
    if trained_step is not None:
        inference.with_trained(prepared, args.model_dir, trained_step)
    results = inference.evaluate(
        prepared, adapter.prompt, adapter.prefix, scored=not args.submission
    )
    metrics: dict[str, dict[str, float]] = {r.task: r.metrics for r in results if r.metrics}
    if overall := averages(results):
        metrics[config.mixture_or_task_name] = overall
    for result in results:
        if result.shown:
            names = ", ".join(result.shown)
            say(f"{result.task}: {names}: no numbers; dpt train shows such metrics in TensorBoard.")
    # Before anything is written: a full disk does not cost the metrics.
    print(json_dumps({"prompt": name, "metrics": metrics}))
    if args.submission:
        submission.write(args.submission, results)
    if args.predictions:
        for result in results:
            path = as_path(args.predictions) / f"{result.task}_{name}.jsonl"
            write_json_lines(path, result.predictions)


def _run_on_images(args: argparse.Namespace, config: Any) -> None:
    import dataclasses

    from dpt_jax.errors import InputError
    from dpt_jax.files import json_dumps, write_json_lines
    from dpt_jax.paths import as_path
    from dpt_jax.problems import trained_images

    for flag in ("prompt", "no_prompt", "scoring", "submission"):
        if getattr(args, flag):
            named = args.model_dir or "that of --gin_file"
            raise InputError(f"--{flag} is of runs on text, but {named} is one on images.")
    if args.split:
        config = dataclasses.replace(config, eval_split=args.split)
    step = trained_images.step_of(args.model_dir, args.step)
    prepared, params = trained_images.load(config, args.model_dir, step)
    result = prepared.evaluate(params)
    print(json_dumps({"prompt": str(step), "metrics": {result.task: result.metrics}}))
    if args.predictions:
        path = as_path(args.predictions) / f"{result.task}_{step}.jsonl"
        write_json_lines(path, result.predictions)
