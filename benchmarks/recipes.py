"""How many steps a prompt takes, by recipe: tuning, fresh seeds, and what they show.

    python benchmarks/recipes.py run --stage tune --recipes adam,lion --rates 0.1,1
    python benchmarks/recipes.py run --stage confirm --recipes fast --rates 0.1 --seeds 100-109
    python benchmarks/recipes.py table
    python benchmarks/recipes.py compare
    python benchmarks/recipes.py draw

Trains prompts on the demo's tasks, all seeds of a setting as one population, and appends a line for
each run to docs/recipes/runs.jsonl. A run that is there already is not made again, so that the
command may be stopped at any time. The others show what is there. A run's score is exact
match of the generated answers to 200 validation rows, every 20 steps; it has reached 0.9 or 0.98
at the first evaluation from which on it stays there.

Stages: "tune" chooses settings, "confirm" has seeds that chose nothing.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
RUNS = ROOT / "docs" / "recipes" / "runs.jsonl"
EVAL_PERIOD = 20
THRESHOLDS = (0.9, 0.98)

VANILLA, VANILLA_MEASURED = "prompts/vanilla.gin", "prompts/vanilla_measured.gin"
UNIFORM, GAUSSIAN = "prompts/decomposed_uniform.gin", "prompts/decomposed.gin"
MEASURED = "prompts/decomposed_measured.gin"
TASKS = ("entailment", "questions", "wordsense")
# What the figure shows: the recipe, and the best or the best known of the others.
DRAWN = (
    "fast at 0.1, 200 steps",
    "adafactor at 1, 200 steps",
    "adam at 1, 400 steps",
    "released at 0.3, 400 steps",
)


def recipes() -> dict[str, tuple[str, dict[str, Any]]]:
    """By name: the gin file of the first values, and fields of `RunConfig` in place of its own.

    Rates are peaks of the linear schedule with 10 % warm-up that all share.
    """
    import optax
    from optax import contrib

    from dpt_jax.training.optimizers import orthogonal

    clipped = {"optimizer": optax.adamw, "clip_norm": 1.0}
    return {
        # The demo's own before: the authors' released recipe.
        "released": (UNIFORM, clipped),
        "adam": (GAUSSIAN, clipped),
        "adam_measured": (MEASURED, clipped),
        "adafactor": (GAUSSIAN, {"optimizer": optax.adafactor}),
        "lion": (GAUSSIAN, {"optimizer": optax.lion}),
        # Evaluated at the iterate that is trained, not at the average.
        "schedule_free": (GAUSSIAN, {"optimizer": contrib.schedule_free_adamw}),
        # Warm-up begins at a rate of 0, which its estimate otherwise divides by.
        "prodigy": (
            GAUSSIAN,
            {"optimizer": functools.partial(contrib.prodigy, safeguard_warmup=True)},
        ),
        "muon": (MEASURED, {"optimizer": contrib.muon}),
        "fast": (MEASURED, {"optimizer": orthogonal}),
        "fast_gaussian": (GAUSSIAN, {"optimizer": orthogonal}),
        "fast_balanced": (MEASURED, {"optimizer": orthogonal, "balanced_batches": True}),
        "adam_vanilla": (VANILLA, clipped),
        "fast_vanilla": (VANILLA_MEASURED, {"optimizer": orthogonal}),
    }


def config_of(recipe: str, task: str, backbone: str | None, sizes: tuple[int, int], **fields: Any):
    """The run of a recipe as a `RunConfig`.

    Args:
      recipe: one of `recipes()`.
      task: one of `TASKS`, or of a part of its rows, as in entailment_k16_s0.
      backbone: a backbone folder; None is the demo's.
      sizes: P and b.
      **fields: of `RunConfig`, in place of its own.
    """
    from dpt_jax import gin_utils
    from dpt_jax.interop import open_backbone
    from dpt_jax.training.config import RunConfig

    prompt, own = recipes()[recipe]
    bindings = [
        f"PROMPT_LENGTH = {sizes[0]}",
        f"BOTTLENECK = {sizes[1]}",
        f"MIXTURE_OR_TASK_NAME = 'recipe_{task}'",
        "MIXTURE_OR_TASK_MODULE = 'benchmarks.recipe_tasks'",
        "MODEL_DIR = ''",
        "CLIP_NORM = None",
    ]
    gin_utils.parse(["runs/demo.gin", prompt], bindings)
    config = gin_utils.build(RunConfig)
    if backbone is not None:
        model = open_backbone(backbone).config
        fields |= {
            "initial_checkpoint_path": backbone,
            "model": model,
            "prompt": config.prompt.clone(embed_dim=model.emb_dim),
        }
    return dataclasses.replace(config, **own, **fields)


def train(settings: dict[str, Any], seeds: list[int]) -> list[dict[str, Any]]:
    """Trains the seeds of a setting together; a result for each."""
    from dpt_jax.analysis.results import read_curves
    from dpt_jax.sweeps.population import train_population
    from dpt_jax.training import schedules

    rate, steps = settings["rate"], settings["steps"]
    with tempfile.TemporaryDirectory() as folder:
        configs = [
            config_of(
                settings["recipe"],
                settings["task"],
                settings["path"],
                tuple(settings["sizes"]),
                model_dir=f"{folder}/{seed}",
                random_seed=seed,
                train_steps=steps,
                learning_rate=functools.partial(schedules.linear_warmup_linear_decay, peak=rate),
                eval_period=EVAL_PERIOD,
                # Checkpoints are not needed, and cost time.
                checkpoint_period=steps,
                eval_batch_size=200,
            )
            for seed in seeds
        ]
        before = time.process_time()
        ends = train_population(configs)
        seconds = (time.process_time() - before) / len(seeds)
        results = []
        for config, end in zip(configs, ends, strict=True):
            scores = (
                None
                if isinstance(end, Exception)
                else read_curves(pathlib.Path(config.model_dir), "accuracy")["score"][1]
            )
            results.append({"seed": config.random_seed, "scores": scores, "cpu_seconds": seconds})
        return results


def steps_to(run: dict[str, Any], threshold: float) -> float:
    """The first step from which on every evaluation reaches the threshold; inf for none."""
    scores = run["scores"] or [0.0]
    below = [i for i, score in enumerate(scores) if score < threshold]
    first = below[-1] + 1 if below else 0
    return math.inf if first == len(scores) else (first + 1) * EVAL_PERIOD


def label(run: dict[str, Any]) -> str:
    """What a run's recipe is called: its name, its rate and its horizon."""
    return f"{run['recipe'].replace('_', ' ')} at {run['rate']:g}, {run['steps']} steps"


def sizes_of(run: dict[str, Any]) -> str:
    """P and b of a run's prompt, as --sizes has them."""
    return ",".join(map(str, run["sizes"]))


def read() -> list[dict[str, Any]]:
    """The runs there are."""
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []


def run(args: argparse.Namespace) -> None:
    """Trains what is asked for and not there."""
    tasks = args.tasks.split(",")
    seeds = seeds_of(args.seeds)
    for recipe in args.recipes.split(","):
        for rate in map(float, args.rates.split(",")):
            for task in tasks:
                settings = {
                    "stage": args.stage,
                    "backbone": args.name,
                    "recipe": recipe,
                    "task": task,
                    "rate": rate,
                    "steps": args.steps,
                    "sizes": [int(n) for n in args.sizes.split(",")],
                }
                there = {r["seed"] for r in read() if settings.items() <= r.items()}
                missing = [seed for seed in seeds if seed not in there]
                if not missing:
                    continue
                found = train(settings | {"path": args.backbone}, missing)
                RUNS.parent.mkdir(parents=True, exist_ok=True)
                with RUNS.open("a") as file:
                    for result in found:
                        file.write(json.dumps(settings | result) + "\n")
                ends = [r["scores"][-1] if r["scores"] else None for r in found]
                to = [steps_to(r, 0.98) for r in found]
                print(recipe, task, rate, args.steps, "to 0.98:", to, "ends:", ends, flush=True)


def seeds_of(text: str) -> list[int]:
    """Seeds of `0,3` or `100-109`."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(n) for n in text.split(",")]


def table(_: argparse.Namespace) -> None:
    """Prints a row for each setting."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for one in read():
        key = tuple(str(one[k]) for k in ("stage", "backbone", "sizes", "task", "recipe"))
        groups.setdefault((*key, one["steps"], one["rate"]), []).append(one)
    titles = ["stage", "backbone", "P, b", "task", "recipe", "horizon", "rate", "seeds"]
    titles += ["to 0.9", "to 0.98", "reached 0.98", "end", "worst end"]
    print("| " + " | ".join(titles) + " |")
    print("| " + " | ".join(["---"] * len(titles)) + " |")
    for key, runs in sorted(groups.items()):
        cells = [*map(str, key), str(len(runs))]
        for threshold in THRESHOLDS:
            steps = [steps_to(r, threshold) for r in runs]
            cells.append(f"{shown(statistics.median(steps))} / {shown(max(steps))}")
        cells.append(f"{sum(steps_to(r, 0.98) < math.inf for r in runs)}/{len(runs)}")
        ends = [r["scores"][-1] if r["scores"] else 0.0 for r in runs]
        cells += [f"{statistics.fmean(ends):.3f}", f"{min(ends):.3f}"]
        print("| " + " | ".join(cells) + " |")


def compare(args: argparse.Namespace) -> None:
    """Prints the differences of one recipe from each other one on each task, paired over seeds.

    A run that never reaches a score counts as if it did right after the longer horizon of the two.
    """
    from dpt_jax.analysis.claims import bootstrap_interval

    by_recipe: dict[str, dict[tuple, dict[str, Any]]] = {}
    for one in read():
        if one["stage"] == "confirm" and one["backbone"] == args.name:
            key = one["task"], one["seed"], sizes_of(one)
            by_recipe.setdefault(label(one), {})[key] = one

    mine = by_recipe.pop(args.recipe)
    titles = [f"{args.recipe} less", "task", "P, b", "seeds"]
    titles += ["steps to 0.9", "steps to 0.98", "points at the end"]
    print("| " + " | ".join(titles) + " |")
    print("| --- " * len(titles) + "|")
    tasks, sizes = sorted({key[0] for key in mine}), sorted({key[2] for key in mine}, reverse=True)
    for (other, theirs), task, size in itertools.product(by_recipe.items(), tasks, sizes):
        shared = [key for key in mine if key in theirs and (key[0], key[2]) == (task, size)]
        if not shared:
            continue
        cells = [other, task, size, str(len(shared))]
        for threshold in (*THRESHOLDS, None):
            found = [difference(mine[key], theirs[key], threshold) for key in shared]
            if len(found) < 2:
                cells.append("–")
                continue
            low, high = bootstrap_interval(found)
            cells.append(f"{statistics.fmean(found):.0f} ({low:.0f} to {high:.0f})")
        print("| " + " | ".join(cells) + " |")


def difference(mine: dict[str, Any], theirs: dict[str, Any], threshold: float | None) -> float:
    """How many steps later a run reaches a score than another one; None: points at the end."""
    if threshold is None:
        return 100 * ((mine["scores"] or [0.0])[-1] - (theirs["scores"] or [0.0])[-1])
    last = max(mine["steps"], theirs["steps"]) + EVAL_PERIOD
    return min(steps_to(mine, threshold), last) - min(steps_to(theirs, threshold), last)


def draw(args: argparse.Namespace) -> None:
    """Draws the learning curves of the confirming runs, a panel per task."""
    from dpt_jax.analysis import figures, panels
    from dpt_jax.analysis.report import Report

    rows = [
        {
            "axes": {"recipe": label(one), "task": one["task"], "seed": one["seed"]},
            "curves": {
                "score": [
                    [EVAL_PERIOD * (i + 1) for i in range(len(one["scores"]))],
                    one["scores"],
                ]
            },
        }
        for one in read()
        if one["stage"] == "confirm"
        and one["backbone"] == args.name
        and sizes_of(one) == args.sizes
        and label(one) in args.recipes.split("; ")
        and one["scores"]
    ]
    report = Report(
        title=f"Recipes on {args.name}, seeds that chose nothing",
        score="exact match on validation, %",
        scale=100,
        names={"wordsense": "word sense"},
    ).resolved(["recipe", "task", "seed"])
    figure = figures.curves(rows, dataclasses.asdict(report), {})
    panels.save(figure, RUNS.with_name(f"curves_{args.name}.png"))


def shown(steps: float) -> str:
    """Steps as text."""
    return "–" if steps == math.inf else f"{steps:g}"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.set_defaults(call=run)
    one.add_argument("--stage", choices=("tune", "confirm"), required=True)
    one.add_argument("--recipes", required=True)
    one.add_argument("--rates", required=True, help="peaks of the schedule")
    one.add_argument("--tasks", default=",".join(TASKS))
    one.add_argument("--seeds", default="0,1")
    one.add_argument("--steps", type=int, default=200)
    one.add_argument("--sizes", default="20,4", help="P and b")
    one.add_argument("--backbone", help="a backbone folder; the demo's without")
    one.add_argument("--name", default="demo", help="what the backbone is called")
    commands.add_parser("table").set_defaults(call=table)
    three = commands.add_parser("draw")
    three.set_defaults(call=draw)
    three.add_argument("--name", default="demo", help="the backbone")
    three.add_argument("--sizes", default="20,4", help="P and b")
    three.add_argument(
        "--recipes", default="; ".join(DRAWN), help="what is drawn, as compare calls it"
    )
    two = commands.add_parser("compare")
    two.set_defaults(call=compare)
    two.add_argument(
        "--recipe",
        default="fast at 0.1, 200 steps",
        help="the one that is compared with all others",
    )
    two.add_argument("--name", default="demo", help="the backbone")
    args = parser.parse_args()
    if getattr(args, "steps", EVAL_PERIOD) % EVAL_PERIOD:
        parser.error(f"--steps is {args.steps}; it must be a multiple of {EVAL_PERIOD}")
    args.call(args)


if __name__ == "__main__":
    sys.path.append(str(ROOT))
    main()
