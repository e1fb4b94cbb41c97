"""What a task loses when the prompts of a sweep are cut to a rank, as results for `dpt report`.

    dpt sweep demo_table1 --only method=PT,DPT
    python benchmarks/truncation.py runs/sweeps/demo_table1 --output=runs/sweeps/demo_truncation
    dpt report runs/sweeps/demo_truncation --output=truncation.md

The best prompt of every run is cut by its truncated singular value decomposition, not trained
again, and evaluated on its task's whole validation split. `dpt rank` does so for one prompt.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from typing import Any

RANKS = (1, 2, 3, 4, 5, 10, 20)
TITLE = "Prompts cut to a rank"


def cut(folder: pathlib.Path, row: dict[str, Any], prepared: Any) -> tuple[list[dict], Any]:
    """A result for each rank of a run's best prompt, and the prepared task for the next run."""
    from dpt_jax import gin_utils, inference, run_files
    from dpt_jax.analysis.spectrum import spectrum
    from dpt_jax.analysis.truncation import truncate
    from dpt_jax.interop import load_prompt
    from dpt_jax.training.config import RunConfig

    run = folder / "points" / row["point"]
    gin_utils.parse([str(run / run_files.CONFIG)], [], of_run=True)
    prepared = inference.prepare_for(gin_utils.build(RunConfig), run, like=prepared)
    prompt = load_prompt(run_files.numpy_checkpoint(run, row["best_step"]))
    own = spectrum(prompt).numerical_rank
    found = []
    for one in truncate(prompt, {*(rank for rank in RANKS if rank < own), own}):
        began = time.perf_counter()
        [result] = inference.evaluate(prepared, one.prompt)
        found.append(
            {
                "sweep": "demo_truncation",
                "point": f"{row['point']}_r{one.rank}",
                "axes": {**row["axes"], "rank": one.rank},
                "status": "done",
                "value": next(iter(result.metrics.values())),
                "energy": one.energy,
                "trainable_parameters": min(one.rank * sum(prompt.shape), prompt.size),
                "train_seconds": time.perf_counter() - began,
            }
        )
    return found, prepared


def main() -> None:
    """Reads the command line, and writes `results.jsonl` and `sweep.json`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", type=pathlib.Path, help="the folder of a sweep")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write to")
    args = parser.parse_args()

    from dpt_jax.analysis.report import Report
    from dpt_jax.analysis.results import RESULTS, SWEEP, read_results
    from dpt_jax.files import write_json, write_text

    found: list[dict[str, Any]] = []
    prepared = None
    for row in read_results(args.sweep):
        if row["status"] == "done" and row.get("singular_values"):
            rows, prepared = cut(args.sweep, row, prepared)
            found += rows
            print(row["point"], {r["axes"]["rank"]: r["value"] for r in rows}, flush=True)
    if not found:
        sys.exit(f"{args.sweep} has no finished run of a soft prompt. Run its dpt sweep first.")
    report = json.loads((args.sweep / SWEEP).read_text())["report"]
    shown = Report(
        title=TITLE,
        score=report["score"],
        scale=report["scale"],
        names={**report["names"], "rank": "rank kept"},
        figures={"score": {"x": "rank", "lines": "method", "log": True}},
    )
    saved = {
        "name": "demo_truncation",
        "points": {row["point"]: {"axes": row["axes"]} for row in found},
        "report": dataclasses.asdict(shown.resolved(list(found[0]["axes"]))),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / RESULTS, "".join(json.dumps(row) + "\n" for row in found))
    write_json(args.output / SWEEP, saved)


if __name__ == "__main__":
    main()
