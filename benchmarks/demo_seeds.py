"""The demo on many seeds: the share of runs that reach 0.98, the mean and the worst of each task.

    python benchmarks/demo_seeds.py                     # seeds 100 to 109, the decomposed prompt
    python benchmarks/demo_seeds.py --methods vanilla --seeds 0-4

The runs are those of `dpt demo`, evaluated as there. All seeds of a task and a method train
together, so that they share the frozen weights, the data and the compiled programs. Run folders are
kept in --output: a run that is there is not made again, and what was stopped goes on.

The last line is a JSON object: `scores` by method and task, one for each seed, and `reached`, the
share of all that are 0.98 or better.
"""

import argparse
import json
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
REACHED = 0.98


def main() -> None:
    """Trains what is missing and prints a row for each method and task."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="fast", help="fast or released")
    parser.add_argument("--methods", default="decomposed")
    parser.add_argument("--tasks", default="demo_entailment,demo_questions,demo_wordsense")
    parser.add_argument("--seeds", default="100-109", help="as 100-109, or 0,1,2")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/demo_seeds"))
    parser.add_argument("--steps", type=int, help="in place of the demo's own")
    args = parser.parse_args()

    from benchmarks.recipes import seeds_of
    from dpt_jax.cli.demo import RECIPES, bindings_of
    from dpt_jax.sweeps.population import train_population
    from dpt_jax.sweeps.worker import own_configs

    seeds = seeds_of(args.seeds)
    extra, runs = [], args.output / args.recipe
    if args.steps is not None:
        extra, runs = [f"TRAIN_STEPS = {args.steps}"], args.output / f"{args.recipe}_{args.steps}"
    scores: dict[str, dict[str, list[float]]] = {}
    print("| method | task | seeds | mean | worst | 0.98 or better |\n" + "| --- " * 6 + "|")
    for method in args.methods.split(","):
        for task in args.tasks.split(","):
            points = []
            for seed in seeds:
                folder = runs / method / task / str(seed)
                files, bindings = RECIPES[args.recipe][method]
                points.append(
                    {
                        "gin_files": ["runs/demo.gin", *files],
                        "bindings": [*bindings_of(bindings, task, seed), *extra],
                        "model_dir": str(folder),
                    }
                )
            configs, texts = own_configs(points, ())
            ends = train_population(configs, texts)
            found = [0.0 if isinstance(end, Exception) else end["best_value"] for end in ends]
            scores.setdefault(method, {})[task] = found
            reached = sum(score >= REACHED for score in found)
            print(
                f"| {method} | {task} | {len(seeds)} | {statistics.fmean(found):.3f} | "
                f"{min(found):.3f} | {reached} of {len(seeds)} |",
                flush=True,
            )
    every = [score for tasks in scores.values() for found in tasks.values() for score in found]
    share = statistics.fmean(score >= REACHED for score in every)
    print(json.dumps({"scores": scores, "seeds": seeds, "reached": share}))


if __name__ == "__main__":
    sys.path.append(str(ROOT))
    main()
