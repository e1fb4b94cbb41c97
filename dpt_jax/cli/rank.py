r"""Show how low the rank of a prompt is, and what its task loses when the prompt is cut to a rank.

  dpt rank runs/rte                            # a run: its best prompt, scored on the run's task
  dpt rank prompt.npy                          # any prompt, or PEFT adapter: numbers alone
  dpt rank prompt.npy --model_dir=runs/rte     # and scored on that run's task
  dpt rank runs/rte --ranks=1,2,5,10 --output=runs/rte/rank

  dpt rank --probe --gin_file=runs/prompt_train.gin --gin_file=models/t5_1_0_small.gin \
      --gin_file=recipes/paper.gin --gin.MODEL_DIR=runs/probe ...

A prompt is cut by its truncated singular value decomposition and not trained again. The probe
(section 2 of the DPT paper) trains `U relu(Σ) V` and draws the signs of Σ and the rank over time.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from dpt_jax.cli import outputs, runs
from dpt_jax.cli.console import print_table
from dpt_jax.cli.gin_flags import search_paths

Scores = Mapping[str, Mapping[str, float]]

HELP = "show a prompt's rank, and its score when cut to a rank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="a prompt in any known form")
    runs.add_arguments(parser)
    parser.add_argument(
        "--ranks", metavar="LIST", help="ranks to cut to (default: 1,2,5,10,... up to its own)"
    )
    parser.add_argument(
        "--no_score", action="store_true", help="the numbers alone, without a model"
    )
    parser.add_argument("--probe", action="store_true", help="train the rank probe instead")
    parser.add_argument(
        "--output", metavar="DIR", help="also write rank.json and figures (PNG, PDF) here"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> None:
    """Measures, or trains the probe."""
    from dpt_jax.errors import InputError

    if args.output:
        outputs.require_folder(args.output, "--output")
    if args.probe:
        if args.prompt:
            raise InputError(f"--probe trains a prompt of its own; leave out {args.prompt}.")
        _probe(args)
    elif args.prompt is None:
        raise InputError("Name a prompt, as in dpt rank runs/rte, or train one with --probe.")
    else:
        _measure(args)


def _measure(args: argparse.Namespace) -> None:
    from dpt_jax.analysis import t5x_runs
    from dpt_jax.analysis.spectrum_figures import plot_spectrum
    from dpt_jax.analysis.truncation import ranks_for, truncate
    from dpt_jax.errors import InputError
    from dpt_jax.files import json_dumps, write_json
    from dpt_jax.interop import load_prompt
    from dpt_jax.paths import as_path
    from dpt_jax.run_files import CONFIG

    if args.model_dir is None and not args.gin_file:
        # A run of T5X is described by T5X's own gin text.
        is_run = (as_path(args.prompt) / CONFIG).is_file()
        if is_run and not t5x_runs.is_run(args.prompt):
            args.model_dir = args.prompt
        elif args.gin_bindings:
            raise InputError("--gin. bindings need the model and task: --model_dir or --gin_file.")
    scored = not args.no_score and (args.model_dir is not None or bool(args.gin_file))
    config = runs.load_config(args) if scored else None
    runs.require_text(config, "dpt rank", "Name its prompt alone, without a task.")
    width = None if config is None else config.model.emb_dim
    prompt = load_prompt(_prompt_path(args), embed_dim=width, flag="PROMPT")
    ranks = _ranks(args.ranks, min(prompt.shape)) if args.ranks else ranks_for(prompt)
    cut = truncate(prompt, ranks)
    scores: Sequence[Scores] = ()
    if config is not None:
        scores = _scores(config, args.model_dir, prompt, cut)
    found = _measured(prompt, cut, scores)
    if args.json:
        print(json_dumps({"prompt": args.prompt, **found}))
    else:
        _print(args.prompt, found)
    if args.output:
        write_json(as_path(args.output) / "rank.json", {"prompt": args.prompt, **found})
        plot_spectrum(as_path(args.output), found, title=args.prompt)


def _prompt_path(args: argparse.Namespace) -> Any:
    """The prompt's path; of a run, that of the step which `--step` names."""
    from dpt_jax import inference, run_files

    if not run_files.numpy_checkpoints(args.prompt):
        return args.prompt
    return run_files.numpy_checkpoint(args.prompt, inference.step_of_run(args.prompt, args.step))


def _ranks(text: str, most: int) -> list[int]:
    from dpt_jax.errors import InputError

    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(f"--ranks is {text!r}; it takes numbers, as in 1,2,5,10.") from e
    for rank in ranks:
        if not 1 <= rank <= most:
            raise InputError(
                f"--ranks has {rank}; a prompt of this shape can be cut to ranks 1 to {most}."
            )
    return ranks


def _scores(config: Any, model_dir: str | None, prompt: Any, cut: Sequence[Any]) -> list[Scores]:
    """The metrics by task of the whole prompt, and then of each cut one."""
    from dpt_jax import inference

    prepared = inference.prepare_for(config, model_dir)
    return [
        {result.task: result.metrics for result in inference.evaluate(prepared, candidate)}
        for candidate in (prompt, *(one.prompt for one in cut))
    ]


def _measured(prompt: Any, cut: Sequence[Any], scores: Sequence[Scores]) -> dict[str, Any]:
    """What is said of a prompt, ready for JSON; `scores` is empty where there is no task."""
    from dpt_jax.analysis.spectrum import spectrum
    from dpt_jax.analysis.truncation import energy_curve

    of = spectrum(prompt)
    rows: list[dict[str, Any]] = [
        {"rank": one.rank, "energy": one.energy, "error": one.error} for one in cut
    ]
    for row, metrics in zip(rows, scores[1:], strict=bool(scores)):
        row["metrics"] = metrics
    return {
        "length": of.length,
        "width": of.width,
        **of.summary(),
        "energy_curve": energy_curve(of).tolist(),
        "truncated": rows,
        **({"metrics": scores[0]} if scores else {}),
    }


def _print(name: str, found: Mapping[str, Any]) -> None:
    print(
        f"{name}: {found['length']} tokens, {found['width']} wide; effective rank "
        f"{found['effective_rank']:.2f}, numerical rank {found['numerical_rank']}"
    )
    whole = {"rank": "uncut", "energy": 1.0, "error": 0.0, "metrics": found.get("metrics", {})}
    columns = [(task, metric) for task, of in whole["metrics"].items() for metric in of]
    rows = [
        (
            str(row["rank"]),
            *(f"{row[name]:.4f}" for name in ("energy", "error")),
            *(f"{row['metrics'][task][metric]:.4f}" for task, metric in columns),
        )
        for row in (*found["truncated"], whole)
    ]
    header = ["rank", "energy", "error", *(f"{task} {metric}" for task, metric in columns)]
    print_table(header, rows, left=0)
    print(
        "energy: share of the squared singular values that are kept; error: Frobenius norm of what "
        "is missed, as a share of the prompt's."
    )


def _probe(args: argparse.Namespace) -> None:
    import json

    from dpt_jax import gin_utils
    from dpt_jax.analysis.spectrum_figures import plot_probe
    from dpt_jax.errors import InputError
    from dpt_jax.paths import as_path
    from dpt_jax.problems import text
    from dpt_jax.training.config import RunConfig

    if not args.gin_file:
        raise InputError(
            "Name the model, task and recipe of the probe with --gin_file, as for dpt train."
        )
    # Its file goes first, since the others set PROMPT_LENGTH, and its prompt last.
    gin_utils.parse(
        ["prompts/spectral.gin", *args.gin_file],
        ["PROMPT = @prompts.SpectralPrompt()", *args.gin_bindings],
        search_paths(args),
        of_run=True,
    )
    gin_utils.check_flags(args.gin_bindings)
    config = gin_utils.build(RunConfig)
    if config.eval_period == 0:
        raise InputError("The probe is read at every evaluation; set --gin.EVAL_PERIOD above 0.")
    summary = text.train(config, gin_utils.operative_config)
    plot_probe(as_path(args.output or config.model_dir), as_path(config.model_dir))
    print(json.dumps(summary))
