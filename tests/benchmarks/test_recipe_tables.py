"""What `benchmarks/recipe_tables.py` makes of the runs of `benchmarks/recipes.py`."""

import json
import math
import shlex

import pytest

from benchmarks import recipe_tables, recipes

TABLE = 'table --tasks=entailment --recipes="AdamW at 1, 80 steps; fast at 0.1, 40 steps"'
COMPARE = (
    'compare --tasks=entailment --recipe="fast at 0.1, 40 steps" --recipes="AdamW at 1, 80 steps"'
)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two recipes with two seeds each."""
    scores = {
        ("adam", 1.0, 80): {100: [0.5, 0.9, 0.95, 0.98], 101: [0.4, 0.5, 0.6, 0.71]},
        ("fast", 0.1, 40): {100: [0.95, 0.99], 101: [0.5, 0.92]},
    }
    shared = {"stage": "confirm", "backbone": "demo", "task": "entailment", "sizes": [20, 4]}
    made = [
        shared | {"recipe": recipe, "rate": rate, "steps": steps, "seed": seed, "scores": found}
        for (recipe, rate, steps), seeds in scores.items()
        for seed, found in seeds.items()
    ]
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps(run) + "\n" for run in made))
    monkeypatch.setattr(recipes, "RUNS", file)
    return made


def shown(*argv):
    args = recipe_tables.parser().parse_args(argv)
    return args.call(args)


def test_the_page_has_what_the_runs_say():
    text = recipe_tables.PAGE.read_text()
    assert text.count("<!-- recipe_tables.py ") == text.count("<!-- end -->") > 10
    assert recipe_tables.written(text) == text


def test_the_tables_of_a_page_are_made_from_what_stands_above_them(runs):
    page = "".join(
        f"<!-- recipe_tables.py {argv} -->\n\ngone\n\n<!-- end -->\nbetween\n"
        for argv in (TABLE, COMPARE)
    )
    one, two, rest = recipe_tables.written(page).split("between\n")
    assert not rest and one.startswith(f"<!-- recipe_tables.py {TABLE} -->\n\n|")
    steps = "steps to 0.9 | steps to 0.98"
    assert one.splitlines()[2:-2] == [
        f"| task | recipe | {steps} | seeds at 0.98 | at the end, mean / worst |",
        "| --- | --- | --- | --- | --- | --- |",
        "| entailment | AdamW at 1, 80 steps | – / – | – / – | 1 of 2 | 0.845 / 0.710 |",
        "|  | **fast** at 0.1, 40 steps | 30 / 40 | – / – | 1 of 2 | 0.955 / 0.920 |",
    ]
    # Seeds 100 and 101: 20 and 40 against 40 and never, which counts as 100; the ends differ by 1
    # and 21. All resamples of two values lie between them.
    assert two.splitlines()[2:-2] == [
        f"| fast at 0.1, 40 steps, less | task | {steps} | points at the end |",
        "| --- | --- | --- | --- | --- |",
        "| AdamW at 1, 80 steps | entailment "
        "| -40 (-60 to -20) | -20 (-40 to 0) | 11.0 (1.0 to 21.0) |",
    ]


def test_rates_are_told_with_the_best_of_them(runs, tmp_path):
    for rate, found in ((0.3, [0.2, 0.98]), (3.0, [0.99, 0.5])):
        run = runs[0] | {"stage": "tune", "rate": rate, "steps": 40, "seed": 0, "scores": found}
        with (tmp_path / "runs.jsonl").open("a") as file:
            file.write(json.dumps(run) + "\n")
    argv = ["rates", "--tasks=entailment", "--recipes=AdamW", "--steps=40"]
    assert shown(*argv).splitlines()[2] == (
        "| AdamW | 0.3: **0.980 / 0.980, 1 of 1** | 3: 0.500 / 0.500, 0 of 1 |"
    )


def test_a_recipe_without_runs_is_named(runs):
    with pytest.raises(SystemExit, match="No such run in runs.jsonl: Lion at 1, 40 steps"):
        shown("table", "--recipes=fast at 0.1, 40 steps; Lion at 1, 40 steps")


def test_the_commands_make_every_run_once():
    made = []
    for line in recipe_tables.PAGE.read_text().splitlines():
        if line.startswith("python benchmarks/recipes.py "):
            args = recipes.parser().parse_args(shlex.split(line)[2:])
            assert (args.backbone is None) == args.name.startswith("demo")
            made += [
                (args.stage, args.name, recipe, task, rate, args.steps, args.sizes, seed)
                for recipe in args.recipes.split(",")
                for rate in map(float, args.rates.split(","))
                for task in args.tasks.split(",")
                for seed in recipes.seeds_of(args.seeds)
            ]
    there = [
        (
            *(run[k] for k in ("stage", "backbone", "recipe", "task", "rate", "steps")),
            ",".join(map(str, run["sizes"])),
            run["seed"],
        )
        for run in recipes.read()
        if run["recipe"] in recipes.recipes()
    ]
    assert sorted(made) == sorted(there)


def test_a_score_is_reached_where_it_stays():
    run = {"scores": [0.95, 0.5, 0.92, 0.91, 0.99]}
    assert [recipe_tables.steps_to(run, score) for score in (0.4, 0.9, 0.98, 1)] == [
        20,
        60,
        100,
        math.inf,
    ]
    assert recipe_tables.steps_to({"scores": None}, 0.9) == math.inf


def test_a_run_that_does_not_get_there_counts_as_after_the_longer_of_two():
    short = {"scores": [0.5, 0.7], "steps": 40}
    long = {"scores": [0.5, 0.7, 0.8, 0.95], "steps": 80}
    assert recipe_tables.difference(short, long, 0.9) == 100 - 80
    assert recipe_tables.difference(long, short, 0.9) == 80 - 100
    assert recipe_tables.difference(short, long, 0.98) == 0
    assert recipe_tables.difference(short, long, 0.7) == 0
    assert recipe_tables.difference(short, long, None) == pytest.approx(-25)
    assert recipe_tables.difference(long, {"scores": None, "steps": 80}, None) == 95
