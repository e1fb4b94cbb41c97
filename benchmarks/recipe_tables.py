"""What the runs of `benchmarks/recipes.py` show, as tables and figures.

    python benchmarks/recipe_tables.py table --recipes="fast at 0.1, 200 steps"
    python benchmarks/recipe_tables.py compare --recipes="AdamW at 1, 400 steps"
    python benchmarks/recipe_tables.py rates --seeds=0-2 --recipes="fast; AdamW" --tasks=entailment
    python benchmarks/recipe_tables.py draw --recipes="fast at 0.1, 200 steps"
    python benchmarks/recipe_tables.py commands    # that made docs/recipes/runs.jsonl
    python benchmarks/recipe_tables.py write       # every table of docs/recipes/evidence.md anew

A run has reached 0.9 or 0.98 at the first evaluation from which on it stays there. A table of the
page stands between `<!-- recipe_tables.py ARGUMENTS -->` and `<!-- end -->`.
"""

import argparse
import dataclasses
import itertools
import math
import pathlib
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.append(str(ROOT))

from benchmarks.recipes import EVAL_PERIOD, RUNS, TASKS, read, recipes, seeds_of  # noqa: E402

PAGE = RUNS.with_name("evidence.md")
THRESHOLDS = (0.9, 0.98)
_BLOCK = re.compile(r"(<!-- recipe_tables\.py (.+?) -->\n\n)(.*?)(\n\n<!-- end -->)", re.DOTALL)
_NAMES = {
    "adafactor": "Adafactor",
    "adam": "AdamW",
    "adam_measured": "AdamW from a measured start",
    "adam_vanilla": "AdamW on a vanilla prompt",
    "fast_balanced": "fast with balanced batches",
    "fast_random_tokens": "fast from random tokens",
    "fast_vanilla": "fast on a vanilla prompt",
    "fast_vanilla_balanced": "fast on a vanilla prompt with balanced batches",
    "lion": "Lion",
    "muon": "Muon",
    "prodigy": "Prodigy",
    "schedule_free": "schedule-free AdamW",
}
_TASKS = {
    "wordsense": "word sense",
    "entailment_k16_s0": "entailment, k = 16",
    "entailment_k32_s0": "entailment, k = 32",
}
_BACKBONES = {"demo": "the demo's T5", "t5_1_0": "T5 1.0's form", "double": "a larger T5"}
# Backbones that lie in the folder of this name, with another.
_FOLDERS = {"t5_1_0": "t5_1_0_end/backbone", "double": "double_end/backbone"}

Run = dict[str, Any]


def steps_to(run: Run, threshold: float) -> float:
    """The first step from which on every evaluation reaches the threshold; inf for none."""
    scores = run["scores"] or [0.0]
    below = [i for i, score in enumerate(scores) if score < threshold]
    first = below[-1] + 1 if below else 0
    return math.inf if first == len(scores) else (first + 1) * EVAL_PERIOD


def end(run: Run) -> float:
    """The last score; 0 for a run that failed."""
    return (run["scores"] or [0.0])[-1]


def difference(mine: Run, theirs: Run, threshold: float | None) -> float:
    """How many steps later a run reaches a score than another one; None: points at the end.

    A run that never reaches it counts as if it did right after the longer horizon of the two.
    """
    if threshold is None:
        return 100 * (end(mine) - end(theirs))
    last = max(mine["steps"], theirs["steps"]) + EVAL_PERIOD
    return min(steps_to(mine, threshold), last) - min(steps_to(theirs, threshold), last)


def name(run: Run) -> str:
    """What a run's recipe is called, without its rate."""
    return _NAMES.get(run["recipe"], run["recipe"].replace("_", " "))


def label(run: Run) -> str:
    """What a run's recipe is called: its name, its rate and its horizon."""
    return f"{name(run)} at {run['rate']:g}, {run['steps']} steps"


def chosen(args: argparse.Namespace) -> list[Run]:
    """The runs that the arguments name, in the arguments' order of tasks and recipes."""
    names, tasks = args.recipes.split("; "), args.tasks.split(",")
    called = name if args.call is rates else label
    seeds = seeds_of(args.seeds)
    found = [
        run
        for run in read()
        if run["stage"] == args.stage
        and run["backbone"] == args.name
        and run["seed"] in seeds
        and ",".join(map(str, run["sizes"])) == args.sizes
        and run["task"] in tasks
        and called(run) in names
        and (called is label or run["steps"] == args.steps)
    ]
    if missing := set(names) - {called(run) for run in found}:
        sys.exit(f"No such run in {RUNS.name}: {'; '.join(sorted(missing))}. Change --recipes.")
    return sorted(found, key=lambda run: (tasks.index(run["task"]), names.index(called(run))))


def table(args: argparse.Namespace) -> str:
    """A row for each task and recipe: steps to the scores, and the scores at the end."""
    rows, shown = [], None
    for (task, recipe), group in itertools.groupby(
        chosen(args), lambda run: (run["task"], label(run))
    ):
        runs = list(group)
        cells = ["" if task == shown else _TASKS.get(task, task), _bold(recipe)]
        for threshold in THRESHOLDS:
            steps = [steps_to(run, threshold) for run in runs]
            cells.append(f"{_steps(statistics.median(steps))} / {_steps(max(steps))}")
        there = sum(steps_to(run, THRESHOLDS[-1]) < math.inf for run in runs)
        ends = [end(run) for run in runs]
        cells += [f"{there} of {len(runs)}", f"{statistics.fmean(ends):.3f} / {min(ends):.3f}"]
        rows.append(cells)
        shown = task
    steps = [f"steps to {threshold}" for threshold in THRESHOLDS]
    return _markdown(
        ["task", "recipe", *steps, f"seeds at {THRESHOLDS[-1]}", "at the end, mean / worst"], rows
    )


def compare(args: argparse.Namespace) -> str:
    """The differences of one recipe from others on each task, paired over seeds."""
    from dpt_jax.analysis.claims import bootstrap_interval

    others = chosen(args)
    by_seed = {
        (run["task"], run["seed"]): run
        for run in chosen(argparse.Namespace(**vars(args) | {"recipes": args.recipe}))
    }
    rows = []
    for (task, recipe), group in itertools.groupby(others, lambda run: (run["task"], label(run))):
        pairs = [(by_seed[task, run["seed"]], run) for run in group]
        cells = [recipe, _TASKS.get(task, task)]
        for threshold in (*THRESHOLDS, None):
            found = [difference(mine, theirs, threshold) for mine, theirs in pairs]
            low, high = bootstrap_interval(found)
            form = "z.1f" if threshold is None else "z.0f"
            cells.append(f"{statistics.fmean(found):{form}} ({low:{form}} to {high:{form}})")
        rows.append(cells)
    rows.sort(key=lambda cells: args.recipes.split("; ").index(cells[0]))
    steps = [f"steps to {threshold}" for threshold in THRESHOLDS]
    return _markdown([f"{args.recipe}, less", "task", *steps, "points at the end"], rows)


def rates(args: argparse.Namespace) -> str:
    """A row for each optimizer, a cell for each of its rates: scores at the end, seeds at 0.98."""
    rows = []
    for recipe, group in itertools.groupby(chosen(args), name):
        cells: list[tuple[float, float, str]] = []
        runs = sorted(group, key=lambda run: run["rate"])
        for rate, of_rate in itertools.groupby(runs, lambda run: run["rate"]):
            ends = [(end(run), steps_to(run, THRESHOLDS[-1]) < math.inf) for run in of_rate]
            mean, worst = statistics.fmean(e for e, _ in ends), min(e for e, _ in ends)
            text = f"{mean:.3f} / {worst:.3f}, {sum(there for _, there in ends)} of {len(ends)}"
            cells.append((mean, rate, text))
        best = max(mean for mean, _, _ in cells)
        rows.append(
            [_bold(recipe)]
            + [
                f"{rate:g}: " + (f"**{text}**" if mean == best else text)
                for mean, rate, text in cells
            ]
        )
    width = max(map(len, rows))
    return _markdown(
        ["optimizer", *[""] * (width - 1)], [row + [""] * (width - len(row)) for row in rows]
    )


def draw(args: argparse.Namespace) -> str:
    """Draws the learning curves, a panel for each task; returns the figure's name."""
    from dpt_jax.analysis import figures, panels
    from dpt_jax.analysis.report import Report

    rows = [
        {
            "axes": {"recipe": label(run), "task": run["task"], "seed": run["seed"]},
            "curves": {
                "score": [
                    [EVAL_PERIOD * (i + 1) for i in range(len(run["scores"]))],
                    run["scores"],
                ]
            },
        }
        for run in chosen(args)
        if run["scores"]
    ]
    backbone = args.name.removesuffix("_gpu")
    report = Report(
        title=f"Recipes on {_BACKBONES.get(backbone, backbone)}, seeds that chose nothing",
        score="exact match on validation, %",
        scale=100,
        names=_TASKS,
    ).resolved(["recipe", "task", "seed"])
    figure = figures.curves(rows, dataclasses.asdict(report), {})
    file = RUNS.with_name(f"curves_{args.name}.png")
    panels.save(figure, file)
    return file.name


def commands(_: argparse.Namespace) -> str:
    """The commands that make the runs that there are."""
    shared = ("stage", "backbone", "recipe", "steps", "sizes")
    settings: dict[tuple, list[int]] = {}
    for run in sorted(read(), key=lambda run: (run["backbone"].endswith("_gpu"), run["backbone"])):
        if run["recipe"] not in recipes():
            continue  # Of an earlier form of the code.
        key = (*(_text(run[k]) for k in shared), run["task"], run["rate"])
        settings.setdefault(key, []).append(run["seed"])
    # Tasks of the same rates, then rates of the same tasks.
    by_task: dict[tuple, list[float]] = {}
    for (*key, task, rate), seeds in settings.items():
        by_task.setdefault((*key, _ranges(seeds), task), []).append(rate)
    together: dict[tuple, list[str]] = {}
    for (*key, seeds, task), found in by_task.items():
        together.setdefault((*key, seeds, ",".join(f"{r:g}" for r in sorted(found))), []).append(
            task
        )
    lines = []
    for (stage, backbone, recipe, steps, sizes, seeds, found), tasks in together.items():
        for part in seeds.split(" "):
            line = (
                f"python benchmarks/recipes.py --stage={stage} --recipes={recipe} --rates={found}"
            )
            line += f" --seeds={part}"
            if tuple(sorted(tasks)) != TASKS:
                line += f" --tasks={','.join(tasks)}"
            line += f" --steps={steps}" if steps != "200" else ""
            line += f" --sizes={sizes}" if sizes != "20,4" else ""
            folder = _FOLDERS.get(backbone.removesuffix("_gpu"))
            line += f" --backbone={folder}" if folder else ""
            line += f" --name={backbone}" if backbone != "demo" else ""
            lines.append(line)
    return "\n".join(["```sh", *lines, "```"])


def written(text: str) -> str:
    """A page with every table made anew."""

    def made(block: re.Match[str]) -> str:
        args = parser().parse_args(shlex.split(block[2]))
        return f"{block[1]}{args.call(args)}{block[4]}"

    return _BLOCK.sub(made, text)


def write(_: argparse.Namespace) -> str:
    """Makes every table of the page anew; returns the page's name."""
    PAGE.write_text(written(PAGE.read_text()))
    return PAGE.name


def _steps(steps: float) -> str:
    return "–" if steps == math.inf else f"{steps:g}"


def _bold(recipe: str) -> str:
    return re.sub("^fast", "**fast**", recipe)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _ranges(numbers: Iterable[int]) -> str:
    """As `--seeds` takes them, a word for each run of neighbours: 0-2 7-9."""
    groups = itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    members = [[number for _, number in group] for _, group in groups]
    return " ".join(f"{m[0]}-{m[-1]}" if len(m) > 1 else str(m[0]) for m in members)


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    subparsers = made.add_subparsers(required=True)
    for call in (table, compare, rates, draw, commands, write):
        one = subparsers.add_parser(call.__name__, help=call.__doc__.partition("\n")[0])
        one.set_defaults(call=call)
        if call in (commands, write):
            continue
        one.add_argument("--recipes", required=True, help="such as 'AdamW at 1, 400 steps; ...'")
        one.add_argument("--tasks", default=",".join(TASKS))
        one.add_argument("--seeds", default="0-9" if call is rates else "100-109")
        one.add_argument("--sizes", default="20,4", help="P and b")
        one.add_argument("--name", default="demo", help="the backbone")
        one.add_argument("--stage", default="tune" if call is rates else "confirm")
        one.add_argument("--steps", type=int, default=200, help="the horizon, for rates")
        if call is compare:
            one.add_argument("--recipe", default="fast at 0.1, 200 steps")
    return made


if __name__ == "__main__":
    arguments = parser().parse_args()
    print(arguments.call(arguments))
