"""How many steps a prompt takes, by recipe: runs to choose settings, and runs on fresh seeds.

    python benchmarks/recipes.py --stage=tune --recipes=adam,lion --rates=0.1,1
    python benchmarks/recipes.py --stage=confirm --recipes=fast --rates=0.1 --seeds=100-109

Trains prompts on the demo's tasks, all seeds of a setting as one population, and appends a line for
each run to docs/recipes/runs.jsonl: exact match of the generated answers to 200 validation rows,
every 20 steps. A run that is there already is not made again, so that the command may be stopped at
any time. `benchmarks/recipe_tables.py` shows what is there.

Stages: "tune" chooses settings, "confirm" has seeds that chose nothing.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
RUNS = ROOT / "docs" / "recipes" / "runs.jsonl"
EVAL_PERIOD = 20

VANILLA, VANILLA_MEASURED = "prompts/vanilla.gin", "prompts/vanilla_measured.gin"
UNIFORM, GAUSSIAN = "prompts/decomposed_uniform.gin", "prompts/decomposed.gin"
MEASURED = "prompts/decomposed_measured.gin"
TASKS = ("entailment", "questions", "wordsense")


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
        "fast_vanilla_balanced": (
            VANILLA_MEASURED,
            {"optimizer": orthogonal, "balanced_batches": True},
        ),
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
                print(recipe, task, rate, args.steps, "ends:", ends, flush=True)


def seeds_of(text: str) -> list[int]:
    """Seeds of `0,3` or `100-109`."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(n) for n in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("--stage", choices=("tune", "confirm"), required=True)
    made.add_argument("--recipes", required=True)
    made.add_argument("--rates", required=True, help="peaks of the schedule")
    made.add_argument("--tasks", default=",".join(TASKS))
    made.add_argument("--seeds", default="0,1")
    made.add_argument("--steps", type=int, default=200)
    made.add_argument("--sizes", default="20,4", help="P and b")
    made.add_argument("--backbone", help="a backbone folder; the demo's without")
    made.add_argument("--name", default="demo", help="what the backbone is called")
    return made


def main() -> None:
    """Trains what the command line asks for."""
    args = parser().parse_args()
    if args.steps % EVAL_PERIOD:
        parser().error(f"--steps is {args.steps}; it must be a multiple of {EVAL_PERIOD}")
    run(args)


if __name__ == "__main__":
    sys.path.append(str(ROOT))
    main()
