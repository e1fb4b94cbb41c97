"""The table of docs/scaling.md: T5s compiled for TPU slices from 1 to 256 chips.

    python benchmarks/scaling.py --output docs/scaling.jsonl    # compiles what the file lacks
    python benchmarks/scaling.py --output docs/scaling.jsonl --only small large --limit 1
    python benchmarks/scaling.py --table docs/scaling.jsonl     # prints it as Markdown

Every line of the file is what `dpt plan --json` says of one row, for the setting of the DPT paper
(P = 100, b = 10, source 512, target 16) in bfloat16, with attention that holds its scores
(`ATTENTION = "plain"`) or with a TPU's default, which does not. A row takes some minutes; no TPU is
needed. The table has both side by side where the file has both.
"""

import argparse
import json
import pathlib
import sys

# Model, slice, (data, fsdp, model), batch over all chips.
ROWS = (
    ("t5_1_0_11b", "v5e:4x4", (4, 1, 4), 32),
    ("t5_1_0_11b", "v5e:16x16", (64, 1, 4), 512),
    ("t5_1_0_11b", "v5e:4x4", (1, 1, 16), 32),
    ("t5_1_0_11b", "v5e:16x16", (16, 1, 16), 512),
    ("t5_1_0_large", "v5e:4x4", (16, 1, 1), 256),
    ("t5_1_0_large", "v5e:16x16", (256, 1, 1), 4096),
    ("t5_1_1_xxl", "v5e:4x4", (1, 1, 16), 32),
    ("t5_1_1_xxl", "v5e:4x4", (4, 1, 4), 32),
    ("t5_1_0_11b", "v6e:2x4", (2, 1, 4), 32),
    ("t5_1_0_11b", "v5p:2x2x1", (1, 1, 4), 48),
    ("t5_1_0_small", "v5e:1x1", (1, 1, 1), 128),
    ("t5_1_0_large", "v5e:1x1", (1, 1, 1), 16),
    ("t5_1_0_large", "v6e:1x1", (1, 1, 1), 40),
    ("t5_1_0_large", "v5p:1x1x1", (1, 1, 1), 128),
    ("t5_1_0_base", "v5e:1x1", (1, 1, 1), 48),
    ("t5_1_0_3b", "v5e:1x1", (1, 1, 1), 4),
    ("t5_1_0_3b", "v5e:4x4", (4, 1, 4), 128),
    ("t5_1_1_xxl", "v6e:2x4", (1, 1, 8), 32),
    ("t5_1_1_xxl", "v6e:2x4", (2, 1, 4), 32),
    ("t5_1_1_xxl", "v5p:2x2x1", (1, 1, 4), 64),
    ("t5_1_1_xxl", "v5e:16x16", (16, 1, 16), 512),
    ("t5_1_0_small", "v6e:1x1", (1, 1, 1), 256),
    ("t5_1_0_small", "v5p:1x1x1", (1, 1, 1), 512),
    ("t5_1_0_base", "v6e:1x1", (1, 1, 1), 96),
    ("t5_1_0_base", "v5p:1x1x1", (1, 1, 1), 256),
    ("t5_1_0_3b", "v6e:1x1", (1, 1, 1), 12),
    ("t5_1_0_3b", "v5p:1x1x1", (1, 1, 1), 48),
    ("t5_1_0_11b", "v6e:16x16", (64, 1, 4), 1024),
    ("t5_1_0_11b", "v5p:4x8x8", (64, 1, 4), 3072),
)
# What fits with attention that does not hold its scores.
LARGER = (
    ("t5_1_0_large", "v5e:1x1", (1, 1, 1), 32),
    ("t5_1_0_11b", "v5e:4x4", (4, 1, 4), 64),
)
ATTENTIONS = ("plain", "auto")
BINDINGS = (
    "MODEL_DIR = ''",
    "INITIAL_CHECKPOINT_PATH = None",
    "MIXTURE_OR_TASK_NAME = ''",
    "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 16}",
)
NAMES = {
    "t5_1_0_small": "small",
    "t5_1_0_base": "base",
    "t5_1_0_large": "large",
    "t5_1_0_3b": "3B",
    "t5_1_0_11b": "11B",
    "t5_1_1_xxl": "1.1 XXL",
}


def compile_row(
    model: str, topology: str, mesh: tuple[int, ...], batch: int, attention: str
) -> dict:
    """What `dpt plan --json` says of a row, decoding left out."""
    from dpt_jax import gin_utils
    from dpt_jax.planning.plan import make_plan
    from dpt_jax.planning.tpus import parse_topology
    from dpt_jax.training.config import RunConfig

    files = ["runs/prompt_train.gin", f"models/{model}.gin", "recipes/paper.gin"]
    bindings = [*BINDINGS, f"MESH = {mesh}", f"BATCH_SIZE = {batch}"]
    bindings.append(f"ATTENTION = {attention!r}")
    gin_utils.parse([*files, "recipes/tpu.gin"], bindings)
    plan = make_plan(gin_utils.build(RunConfig), parse_topology(topology), decoding=False)
    return {"model": model} | plan.to_json()


def key(row: dict) -> tuple:
    """What tells rows apart; the oldest are from when there was one attention."""
    place = row["model"], row["topology"], tuple(row["mesh"]), row["batch_size"]
    return *place, row.get("attention", "plain")


def read(path: pathlib.Path) -> list[dict]:
    """The rows that a file holds."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[dict]) -> str:
    """The rows as Markdown, by model and slice; numbers are those of plain attention, and ours."""
    found = {key(row): row for row in rows}
    lines = [
        "| T5 | slice | chips | mesh | batch | temporaries per chip, GiB | memory per chip, GiB "
        "| step, ms | examples/s | examples/s per chip | of peak |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    places = sorted({k[:-1] for k in found}, key=lambda k: (list(NAMES).index(k[0]), *k[1:]))
    for place in places:
        both = [found.get((*place, name)) for name in ATTENTIONS]
        row = next(row for row in both if row)
        mesh = " x ".join(map(str, row["mesh"]))
        cells = [NAMES[row["model"]], row["topology"], row["chips"], mesh, row["batch_size"]]
        cells += [" → ".join(parts) for parts in zip(*map(_numbers, both), strict=True)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _numbers(row: dict | None) -> list[str]:
    """The numbers of a row that the table shows; a dash where it was not compiled."""
    if row is None:
        return ["-"] * 6
    if not row["fits"]:
        return ["too much"] * 2 + ["-"] * 4
    step = row["estimated_step_seconds"]
    return [
        f"{row['memory_bytes_per_chip']['temporaries'] / 2**30:.2f}",
        f"{row['hbm_bytes_per_chip'] / 2**30:.2f}",
        f"{step * 1e3:.0f}",
        f"{row['examples_per_second']:,.0f}",
        f"{row['examples_per_second'] / row['chips']:.1f}",
        f"{row['estimated_seconds']['compute'] / step:.0%}",
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, help="file that rows are added to")
    parser.add_argument("--only", nargs="+", choices=NAMES.values(), help="these models alone")
    parser.add_argument("--limit", type=int, help="compile at most so many rows")
    parser.add_argument("--table", type=pathlib.Path, help="print the rows of a file")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.table)))
        return
    if options.output is None:
        sys.exit("Name the file with --output, or print one with --table.")
    import jax

    jax.config.update("jax_platforms", "cpu")
    done = {key(row) for row in read(options.output)}
    wanted = [(*place, "auto") for place in (*LARGER, *ROWS)] + [(*r, "plain") for r in ROWS]
    only = options.only or NAMES.values()
    missing = [row for row in wanted if row not in done and NAMES[row[0]] in only]
    for row in missing[: options.limit]:
        found = compile_row(*row)
        with options.output.open("a") as file:
            file.write(json.dumps(found) + "\n")
        seconds = found.get("estimated_step_seconds")
        print(json.dumps({"row": row, "fits": found["fits"], "step_seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
