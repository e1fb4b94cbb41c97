r"""Show what trained prefixes share between keys and values, and how much attention they get.

  dpt prefix runs/prefix                          # a run: its best step, on the run's own task
  dpt prefix prefix.npz                           # any prefix, or PEFT adapter: its numbers alone
  dpt prefix runs/sweeps/demo_sharing --only p=10 --output=figures

Of a sweep's folder all points that are done are taken, and those that differ in their seed alone
are one line. For each layer, counted from 1: the cosine of a token's key and value, averaged over
the tokens; the squared canonical correlation of keys and values, each cut to the principal
components of a fifth of the tokens; and the share of the layer's attention that the prefix gets on
the task's rows.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dpt_jax.cli import outputs, runs
from dpt_jax.cli.console import print_table, say

if TYPE_CHECKING:
    from dpt_jax.analysis.prefix_figures import LayerOfPrefix
    from dpt_jax.interop.adapters import Adapter

HELP = "show what a prefix's keys and values share, and the attention it gets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("path", metavar="PATH", help="a run, a sweep's folder, or a prefix")
    runs.add_arguments(parser)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=VALUE[,VALUE]",
        help="of a sweep, the points with these values",
    )
    parser.add_argument("--no_attention", action="store_true", help="without a model")
    parser.add_argument(
        "--output", metavar="DIR", help="also write prefix.json and figures (PNG, PDF) here"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> None:
    """Measures and prints."""
    from dpt_jax.analysis.prefix_figures import plot_prefixes
    from dpt_jax.files import json_dumps, write_json
    from dpt_jax.paths import as_path

    if args.output:
        outputs.require_folder(args.output, "--output")
    layers = list(_measured(args))
    found = {"path": args.path, "layers": [dataclasses.asdict(layer) for layer in layers]}
    if args.json:
        print(json_dumps(found))
    else:
        _print(layers)
    if args.output:
        folder = as_path(args.output)
        write_json(folder / "prefix.json", found)
        for path in plot_prefixes(folder, layers, _title(args.path)):
            say(f"Written: {path}")


def _title(path: str) -> str:
    """The figures' heading: a sweep's own, or the path."""
    from dpt_jax import run_files
    from dpt_jax.analysis.results import SWEEP
    from dpt_jax.paths import as_path

    sweep = as_path(path) / SWEEP
    if not sweep.is_file():
        return path
    return run_files.read_json(sweep, "Run the sweep again.")["report"]["title"]


def _measured(args: argparse.Namespace) -> Iterator["LayerOfPrefix"]:
    """Every layer of every prefix that is asked for."""
    from dpt_jax import inference, run_files
    from dpt_jax.errors import InputError
    from dpt_jax.interop.adapters import load_adapter

    prepared = None
    for line, path, model_dir in _prefixes(args):
        adapter, mass = load_adapter(path, flag="PATH"), {}
        if adapter.prefix is None:
            raise InputError(f"{path} is a prompt; dpt rank measures prompts.")
        if not args.no_attention and (model_dir or args.gin_file):
            config = runs.load_config(argparse.Namespace(**vars(args) | {"model_dir": model_dir}))
            prepared = inference.prepare_for(config, model_dir, like=prepared)
            if model_dir is not None:
                saved = run_files.numpy_checkpoints(model_dir).items()
                for step in [step for step, checkpoint in saved if checkpoint == path]:
                    inference.with_trained(prepared, model_dir, step)
            mass = inference.prefix_attention(prepared, adapter)
        yield from _layers(line, adapter, mass)


def _prefixes(args: argparse.Namespace) -> Iterator[tuple[str, Any, str | None]]:
    """The name of each prefix's line, its files, and the run whose model and task it has."""
    from dpt_jax import inference, run_files
    from dpt_jax.analysis.results import SWEEP
    from dpt_jax.errors import InputError
    from dpt_jax.paths import as_path

    if (as_path(args.path) / SWEEP).is_file():
        yield from _of_sweep(args)
        return
    if args.only:
        raise InputError(f"--only is for a sweep's folder; {args.path} has no {SWEEP}.")
    if run_files.numpy_checkpoints(args.path):
        step = inference.step_of_run(args.path, args.step)
        is_ours = (as_path(args.path) / run_files.CONFIG).is_file()
        model_dir = args.model_dir or (args.path if is_ours else None)
        yield args.path, run_files.numpy_checkpoint(args.path, step), model_dir
    else:
        yield args.path, args.path, args.model_dir


def _of_sweep(args: argparse.Namespace) -> Iterator[tuple[str, Any, str | None]]:
    from dpt_jax import inference, run_files
    from dpt_jax.analysis import tables
    from dpt_jax.analysis.results import SWEEP, read_results
    from dpt_jax.errors import InputError
    from dpt_jax.paths import as_path
    from dpt_jax.sweeps.definition import Point, select

    folder = as_path(args.path)
    report = run_files.read_json(folder / SWEEP, "Run the sweep again.")["report"]
    points = [
        Point(row["point"], row["axes"], (), ())
        for row in read_results(folder)
        if row["status"] == "done"
    ]
    if not points:
        raise InputError(f"{folder} has no points that are done.")
    chosen = select(points, args.only)
    # Earlier versions had no implied axes.
    unnamed = {*report["seeds"], *report.get("implied", ())}
    differing = [
        axis
        for axis in chosen[0].axes
        if axis not in unnamed and len({str(point.axes[axis]) for point in chosen}) > 1
    ]
    name = tables.namer(report)
    for point in chosen:
        model_dir = folder / "points" / point.name
        step = inference.step_of_run(model_dir, args.step)
        line = ", ".join(tables.called(axis, point.axes[axis], name) for axis in differing)
        checkpoint = run_files.numpy_checkpoint(model_dir, step)
        yield line or report["title"], checkpoint, str(model_dir)


def _layers(line: str, adapter: "Adapter", mass: Any) -> Iterator["LayerOfPrefix"]:
    from dpt_jax.analysis import likeness
    from dpt_jax.analysis.prefix_figures import LayerOfPrefix

    prefix = adapter.prefix
    assert prefix is not None
    for stack in prefix.stacks:
        keys, values = (prefix.arrays[f"{stack}_{kind}"] for kind in ("keys", "values"))
        cosines, length = likeness.cosine(keys, values), prefix.length
        correlations: Any = [None] * len(keys)
        if length > 1:
            correlations = likeness.canonical_correlation(keys, values).tolist()
        for i, cosine in enumerate(cosines.tolist()):
            share = float(mass[stack][i].mean()) if stack in mass else None
            yield LayerOfPrefix(line, stack, i + 1, length, cosine, correlations[i], share)


def _print(layers: Sequence["LayerOfPrefix"]) -> None:
    """A row for each line, stack and layer; several prefixes of a line as their mean."""
    from dpt_jax.analysis.likeness import components_of

    groups: dict[tuple[str, str, int], list[LayerOfPrefix]] = {}
    for layer in layers:
        groups.setdefault((layer.line, layer.stack, layer.layer), []).append(layer)

    def mean(found: Sequence["LayerOfPrefix"], name: str) -> str:
        values = [value for one in found if (value := getattr(one, name)) is not None]
        return f"{sum(values) / len(values):.3f}" if values else "–"

    numbers = ("cosine", "canonical_correlation", "mass")
    print_table(
        ("prefix", "stack", "layer", "prefixes", "cosine", "canonical correlation", "attention"),
        [
            (line, stack, str(layer), str(len(found)), *(mean(found, name) for name in numbers))
            for (line, stack, layer), found in groups.items()
        ],
    )
    if (length := layers[0].length) > 1:
        independent = components_of(length) / (length - 1)
        print(
            f"Independent keys and values have a canonical correlation of {independent:.3f} here."
        )
