"""Gather the tables, claims and figures of sweeps and runs on one page.

  dpt report runs/sweeps/demo_*                        # runs/report.html, one self-contained page
  dpt report runs/rte runs/cb --output=runs/two.html
  dpt report runs/sweeps/demo_* --output=docs/results.md

Made from results files alone: sweep.json and results.jsonl of a sweep's folder, and the files of a
run's. Markdown has its pictures in a folder of its own name beside it.
"""

import argparse

HELP = "gather tables and figures of sweeps and runs on one page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUNS",
        help="folders of dpt sweep or dpt train, or results.jsonl",
    )
    parser.add_argument(
        "--output",
        default="runs/report.html",
        metavar="FILE",
        help=".html or .md (default: runs/report.html)",
    )
    parser.add_argument("--title", default="Results", metavar="TEXT", help="the heading")
    parser.add_argument(
        "--text", default="", metavar="TEXT", help="a paragraph under the heading, in Markdown"
    )


def run(args: argparse.Namespace) -> None:
    """Reads, draws and writes."""
    from dpt_jax.analysis import page
    from dpt_jax.cli import outputs
    from dpt_jax.errors import InputError
    from dpt_jax.paths import as_path

    if not args.runs:
        raise InputError("Name what to report: dpt report runs/sweeps/demo_bottleneck")
    if args.gin_bindings:
        raise InputError("dpt report takes no --gin. bindings; the results say how to show them.")
    output = as_path(args.output)
    if output.suffix not in (".html", ".md"):
        raise InputError(f"--output is {output}; a report ends in .html or .md.")
    outputs.require_file(output, "--output")
    sections = page.gather([as_path(path) for path in args.runs])
    page.write(output, sections, args.title, args.text)
    print(output)
