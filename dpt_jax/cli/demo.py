"""Train prompts for a tiny pretrained T5 that comes with the package, and show that they work.

  dpt demo
  dpt demo --methods vanilla,decomposed,residual,prefix,fine_tuning
  dpt demo --recipe=released
  dpt demo --images
  dpt demo --images --methods deep,fine_tuning --tasks embedded

Every method starts from the same frozen backbone, on three generated tasks in the manner of
SuperGLUE whose inputs do not say what to do. The runs, a picture of the learning curves and
summary.json go to runs/demo; a demo that was stopped is continued by the same command.

With --images it is a tiny vision transformer, which was pretrained on tiled handwritten digits, and
digits among noise (PARTIAL) or on photographs (EMBEDDED). attention.png in runs/demo_images shows
what the prompts attend to, layer by layer.
"""

import argparse
import pathlib
from typing import Any

from dpt_jax.cli import demo_images, outputs
from dpt_jax.cli.console import print_table

HELP = "train prompts on the embedded tiny T5 and show the result (about 3 minutes)"

_SAMPLED = ["SampledVocabulary.population = 250"]
# What the recipe does not concern.
_OTHERS = {
    "prefix": (["prefixes/simple_shared.gin"], ["PREFIX_LENGTH = 20", *_SAMPLED]),
    "fine_tuning": ([], ["PROMPT = None", "LEARNING_RATE_PEAK = 1e-3"]),
}
# Recipe -> method -> the gin files and bindings of its own.
RECIPES: dict[str, dict[str, tuple[list[str], list[str]]]] = {
    "released": {
        "vanilla": (["prompts/vanilla.gin"], _SAMPLED),
        "decomposed": (["prompts/decomposed_uniform.gin"], []),
        "residual": (["prompts/residual.gin"], _SAMPLED),
        **_OTHERS,
    },
    "fast": {
        "vanilla": (["recipes/fast.gin", "prompts/vanilla_measured.gin"], []),
        "decomposed": (["recipes/fast.gin"], []),
        "residual": (["recipes/fast.gin", "prompts/residual_measured.gin"], []),
        **_OTHERS,
    },
}
METHODS = list(RECIPES["released"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; `--gin.NAME=VALUE` changes every run."""
    parser.add_argument(
        "--images", action="store_true", help="prompts for a ViT on images (about 5 minutes)"
    )
    parser.add_argument(
        "--methods",
        metavar="NAMES",
        help=f"which of {', '.join(METHODS)} (default: vanilla,decomposed); with --images, of "
        f"{', '.join(demo_images.METHODS)} (default: all)",
    )
    parser.add_argument("--tasks", metavar="NAMES", help="which demo tasks (default: all)")
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        default="fast",
        help="how prompts for the T5 are trained: recipes/fast.gin for 200 steps (default), or the "
        "DPT authors' released recipe for 700",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="default: runs/demo, runs/demo_released of that recipe, or runs/demo_images with "
        "--images",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of prompts and data order (default: 0)"
    )


def run(args: argparse.Namespace) -> None:
    """Trains every method on every task, then writes and prints the results."""
    name = "images" if args.images else args.recipe
    args.output = args.output or f"runs/demo_{name}".removesuffix("_fast")
    if args.images:
        known = demo_images.METHODS, demo_images.SETS
        methods = _chosen("--methods", args.methods or ",".join(known[0]), list(known[0]))
        sets = _chosen("--tasks", args.tasks or ",".join(known[1]), list(known[1]))
        return demo_images.run(args, methods, sets)

    import dataclasses

    from dpt_jax import demo, gin_utils, inference
    from dpt_jax.files import write_json
    from dpt_jax.problems import text
    from dpt_jax.training.config import RunConfig

    methods = _chosen("--methods", args.methods or "vanilla,decomposed", METHODS)
    tasks = _chosen("--tasks", args.tasks or ",".join(demo.TASKS), list(demo.TASKS))
    output = outputs.require_folder(args.output, "--output")

    def config_of(method: str, task: str, folder: pathlib.Path) -> RunConfig:
        files, bindings = RECIPES[args.recipe][method]
        gin_utils.parse(
            ["runs/demo.gin", *files],
            [
                *bindings_of(bindings, task, args.seed),
                f"MODEL_DIR = {str(folder)!r}",
                *args.gin_bindings,
            ],
        )
        return gin_utils.build(RunConfig)

    summary: dict[str, Any] = {
        "chance": {task: demo.chance(task) for task in tasks},
        "no_prompt": {},
        "methods": {},
        "seed": args.seed,
    }
    # What the methods share on a task: its examples, and the backbone.
    bare: dict[str, text.Prepared] = {}
    for task in tasks:
        config = config_of(methods[0], task, output)
        bare[task] = text.prepare(dataclasses.replace(config, prompt=None, prefix=None))
        [result] = inference.evaluate(bare[task], None)
        summary["no_prompt"][task] = result.metrics["accuracy"]
    for method in methods:
        results = {
            task: text.train(
                config_of(method, task, output / method / task),
                gin_utils.operative_config,
                bare[task],
            )
            for task in tasks
        }
        summary["methods"][method] = {
            "trainable_parameters": results[tasks[0]]["trainable_parameters"],
            "accuracy": {t: r["metrics"][t]["accuracy"] for t, r in results.items()},
            "train_seconds": round(sum(r["train_seconds"] for r in results.values()), 1),
        }
    write_json(output / "summary.json", summary)

    _draw(output, summary, tasks)
    _print_table(summary, tasks)
    print(f"\nWritten: {output / 'summary.json'}, {output / 'learning_curves.png'}")


def bindings_of(own: list[str], task: str, seed: int) -> list[str]:
    """The bindings of a run, but for its folder; `own` are those of its method."""
    return [
        "PROMPT_LENGTH = 20",
        "BOTTLENECK = 4",
        *own,
        f"MIXTURE_OR_TASK_NAME = {task!r}",
        f"RANDOM_SEED = {seed}",
    ]


def _draw(output: pathlib.Path, summary: dict[str, Any], tasks: list[str]) -> None:
    """The learning curves, drawn as a sweep's: a panel per task, a line per method."""
    import dataclasses

    from dpt_jax.analysis import figures, panels
    from dpt_jax.analysis.report import Report
    from dpt_jax.analysis.results import read_curves

    rows = [
        {
            "axes": {"method": method, "task": task},
            "curves": read_curves(output / method / task, "accuracy"),
        }
        for method in summary["methods"]
        for task in tasks
    ]
    names = {
        method: f"{method.replace('_', ' ')} ({found['trainable_parameters']:,} parameters)"
        for method, found in summary["methods"].items()
    }
    report = Report(
        title=f"Learning curves of the demo, seed {summary['seed']}",
        score="exact match on validation, %",
        scale=100,
        names=names | {task: task.removeprefix("demo_") for task in tasks},
    ).resolved(["method", "task"])
    levels = {"majority class": summary["chance"]}
    figure = figures.curves(rows, dataclasses.asdict(report), {"levels": levels})
    for panel in figure.axes:
        panel.set_ylim(-2, 102)
    panels.save(figure, output / "learning_curves.png")


def _chosen(flag: str, names: str, known: list[str]) -> list[str]:
    from dpt_jax.errors import InputError, nearest_names

    chosen = [name for name in names.split(",") if name]
    for name in chosen:
        if name not in known:
            raise InputError(
                f"{flag} names {name!r}; there are {', '.join(known)}.{nearest_names(name, known)}"
            )
    if not chosen:
        raise InputError(f"{flag} is empty; choose from {', '.join(known)}.")
    return list(dict.fromkeys(chosen))


def _print_table(summary: dict[str, Any], tasks: list[str]) -> None:
    def row(name: str, accuracy: dict[str, float], parameters: str = "", seconds: str = "") -> list:
        mean = sum(accuracy.values()) / len(accuracy)
        cells = [f"{accuracy[task]:.3f}" for task in tasks]
        return [name, parameters, *cells, f"{mean:.3f}", seconds]

    rows = [row("majority class", summary["chance"]), row("no prompt", summary["no_prompt"]), []]
    rows += [
        row(
            method.replace("_", " "),
            found["accuracy"],
            f"{found['trainable_parameters']:,}",
            f"{found['train_seconds']:.0f}",
        )
        for method, found in summary["methods"].items()
    ]
    names = [task.removeprefix("demo_") for task in tasks]
    print_table(
        ["method", "parameters", *names, "mean", "seconds"],
        rows,
        title="Exact match on validation, best evaluation",
    )
