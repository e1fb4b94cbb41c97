"""Fills the tables of docs/theory.md: `python docs/make_theory.py [RUNS]`.

RUNS is a folder of `dpt theory`, such as runs/theory: the results, settings and figures of the
experiments that are done there are taken into docs/theory first. The tables are then made from
docs/theory alone, and a test compares the page with what this makes.
"""

import json
import pathlib
import re
import shutil
import sys

from dpt_jax.cli import theory_bridge
from dpt_jax.theory.experiments import EXPERIMENTS
from dpt_jax.theory.experiments.base import FIGURE, RESULTS, SETTINGS, read_rows

PAGE = pathlib.Path(__file__).with_name("theory.md")
KEPT = PAGE.with_name("theory")


def take(runs: pathlib.Path) -> None:
    """Takes what is done in a folder of runs."""
    KEPT.mkdir(exist_ok=True)
    for name in EXPERIMENTS:
        if (runs / name / f"{FIGURE}.png").exists():
            shutil.copyfile(runs / name / RESULTS, KEPT / f"{name}.jsonl")
            shutil.copyfile(runs / name / SETTINGS, KEPT / f"{name}.json")
            shutil.copyfile(runs / name / f"{FIGURE}.png", KEPT / f"{name}.png")
    if (runs / theory_bridge.NAME / RESULTS).exists():
        shutil.copyfile(runs / theory_bridge.NAME / RESULTS, KEPT / "bridge.jsonl")


def bridge() -> str:
    """The table of the bridge, or that it is not run yet."""
    if not (KEPT / "bridge.jsonl").exists():
        return "Not run yet: `dpt theory bridge`.\n"
    return theory_bridge.table(read_rows(KEPT / "bridge.jsonl")).markdown()


def block(name: str) -> str:
    """Figure, table and settings of an experiment, or that it is not run yet."""
    if not (KEPT / f"{name}.jsonl").exists():
        return f"Not run yet: `dpt theory {name}`.\n"
    table = EXPERIMENTS[name].table(read_rows(KEPT / f"{name}.jsonl"))
    settings = json.loads((KEPT / f"{name}.json").read_text())
    del settings["experiment"]
    default = json.loads(json.dumps(vars(EXPERIMENTS[name].settings)))
    changed = {key: value for key, value in settings.items() if value != default[key]}
    said = ", ".join(f"`{key}` {json.dumps(value)}" for key, value in settings.items())
    if changed:
        flags = " ".join(
            f'--set "{key}={tuple(value) if isinstance(value, list) else value}"'
            for key, value in changed.items()
        )
        said += f". Smaller than the defaults: `dpt theory {name} {flags}`"
    return (
        f"![{EXPERIMENTS[name].title}](theory/{name}.png)\n\n{table.markdown()}\n"
        f"Settings: {said}. Results: [{name}.jsonl](theory/{name}.jsonl).\n"
    )


def make(page: str) -> str:
    """The page with its blocks made anew; they stand between two comments each."""
    made = {name: block(name) for name in EXPERIMENTS} | {theory_bridge.NAME: bridge()}
    for name, text in made.items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, text=text: found[1] + text + found[2],
            page,
            count=1,
            flags=re.DOTALL,
        )
    return page


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take(pathlib.Path(sys.argv[1]))
    PAGE.write_text(make(PAGE.read_text()))
