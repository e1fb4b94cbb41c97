r"""Run the points of a sweep, each in a folder of its own, and put their results in a table.

  dpt sweep demo_bottleneck                      # a sweep that comes with the package
  dpt sweep 'demo_*_rates' --jobs=2              # all that match, one after another
  dpt sweep --gin_file=my_sweep.gin --only method=DPT,PT --gin.TRAIN_STEPS=200
  dpt sweep table1 --launcher=commands > points.sh       # a shell command per point
  dpt sweep table1 --launcher=ray --resources=TPU=4

The results are in OUTPUT/<sweep>: results.jsonl, results.csv, table.md, and the figures that
sweeps.Report.figures asks for. The same command goes on where it was stopped: finished points are
not run again, failed ones are.
Points that differ only in seed, learning rate, bottleneck or few-shot draw train together, against
one copy of the frozen weights; their results are those of points trained alone.
--gin.NAME=VALUE sets a binding of every point, --gin.Sweep.FIELD=VALUE changes the sweep.

--launcher=commands prints what is left to run. For a Slurm array, run line SLURM_ARRAY_TASK_ID:
`sed -n "${SLURM_ARRAY_TASK_ID}p" points.sh | bash`; for xpk, give each line as --command. The same
dpt sweep command then gathers the results.
"""

import argparse
import contextlib
import fnmatch
import shlex
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from dpt_jax.cli import outputs
from dpt_jax.cli.console import print_table, say
from dpt_jax.cli.gin_flags import add_gin_flags, search_paths

OUTPUT = "runs/sweeps"
HELP = "run many points of a gin sweep and tabulate them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; `--gin.NAME=VALUE` is handled in main."""
    parser.add_argument(
        "sweeps", nargs="*", metavar="SWEEP", help="sweeps of the package (wildcards too), or files"
    )
    add_gin_flags(parser, "a sweep's gin file, or one on top of each SWEEP")
    parser.add_argument(
        "--output",
        default=OUTPUT,
        metavar="DIR",
        help="where each sweep gets its folder (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=VALUES",
        help="run the points with these values alone (separated by commas); repeatable",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="points side by side (default: 1)"
    )
    parser.add_argument(
        "--launcher",
        default="local",
        metavar="NAME",
        help="local processes, ray, or commands, which prints them (default: local)",
    )
    parser.add_argument(
        "--members_at_once",
        type=int,
        metavar="N",
        help="of points that train together, how many hold their activations in memory at a time; "
        "0 trains every point alone (default: as many as help and the memory has room for)",
    )
    parser.add_argument(
        "--resources", metavar="LIST", help="what a point needs of Ray, as in TPU=4,CPU=8"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the sweeps; 1 when a point failed, 128 + n after signal n."""
    from dpt_jax.errors import InputError
    from dpt_jax.sweeps import jobs, loading, on_ray

    jobs.require_launcher(args.launcher)
    resources = on_ray.parse_resources(args.resources)
    if args.jobs < 1:
        raise InputError(f"--jobs is {args.jobs}; it must be at least 1.")
    if args.members_at_once is not None and args.members_at_once < 0:
        raise InputError(
            f"--members_at_once is {args.members_at_once}; it must be at least 1, or 0 to train "
            "every point alone."
        )
    if resources and args.launcher != "ray":
        raise InputError("--resources is for --launcher=ray; local points share this machine.")
    named = [file for name in args.sweeps for file in _matching(name)]
    if not named and not args.gin_file:
        raise InputError(f"Name a sweep: {', '.join(loading.known_sweeps())}, or --gin_file.")
    outputs.require_folder(args.output, "--output")
    paths = search_paths(args)
    prepared = []
    for files in [[file, *args.gin_file] for file in named] or [args.gin_file]:
        prepared.append(_prepare(args, files, paths))
    status = 0
    for folder, points in prepared:
        with contextlib.closing(folder):
            status = max(status, _run_sweep(args, folder, points, paths, resources))
        if status > 128:
            break
    return status


def _matching(name: str) -> list[str]:
    from dpt_jax.sweeps import loading

    if any(mark in name for mark in "*?["):
        found = fnmatch.filter(loading.known_sweeps(), name)
        if found:
            return [loading.sweep_file(one) for one in found]
    return [loading.sweep_file(name)]


def _prepare(
    args: argparse.Namespace, files: Sequence[str], paths: Sequence[str]
) -> tuple[Any, list[Any]]:
    """Finds whatever is wrong with a sweep before anything is run or written."""
    import dataclasses

    from dpt_jax.analysis import claims, figures
    from dpt_jax.paths import as_path
    from dpt_jax.sweeps import loading
    from dpt_jax.sweeps.definition import select
    from dpt_jax.sweeps.folder import SweepFolder

    sweep, bindings = loading.load(files, args.gin_bindings, paths)
    points = sweep.expand(bindings)
    chosen = select(points, args.only)
    loading.check(sweep, chosen, paths, bindings)
    path = as_path(args.output) / sweep.name
    folder = SweepFolder(path, sweep, points, _command(args, files))
    report = dataclasses.asdict(folder.report)
    figures.check(report, list(sweep.axes))
    rows = [{"axes": dict(point.axes), "status": "not run"} for point in points]
    for claim in report["claims"]:
        claims.judge(claim, [row | {"value": None} for row in rows], report)
    return folder, chosen


def _command(args: argparse.Namespace, files: Sequence[str]) -> str:
    """The command line that makes the results again; --only, which runs a part, is left out."""
    from dpt_jax.sweeps import loading

    first, *others = files
    name = first.rpartition("/")[2].removesuffix(".gin")
    ours = name in loading.known_sweeps() and first == loading.sweep_file(name)
    words = ["dpt", "sweep", *([name] if ours and args.sweeps else [f"--gin_file={first}"])]
    words += [f"--gin_file={file}" for file in others]
    words += [f"--gin_search_paths={path}" for path in args.gin_search_paths]
    if args.output != OUTPUT:
        words.append(f"--output={args.output}")
    for binding in args.gin_bindings:
        name, _, value = binding.partition("=")
        words.append(f"--gin.{name.strip()}={value.strip()}")
    return shlex.join(words)


def _run_sweep(
    args: argparse.Namespace,
    folder: Any,
    points: Sequence[Any],
    paths: Sequence[str],
    resources: dict[str, float],
) -> int:
    import dataclasses

    from dpt_jax.cli.sweep_progress import SweepProgress
    from dpt_jax.progress import told_while
    from dpt_jax.sweeps import jobs
    from dpt_jax.sweeps.local import Local
    from dpt_jax.sweeps.on_ray import Ray

    folder.open()
    left = [point for point in points if folder.row(point)["status"] != "done"]
    if args.launcher == "commands":
        folder.write()
        for point in left:
            print(jobs.command(point, folder, paths))
        say(
            f"{folder.sweep.name}: {len(left)} of {len(points)} points are left to run; the same "
            "dpt sweep command gathers their results."
        )
        if not left:
            _finish(folder)
        return 0
    launcher: Any
    if args.launcher == "ray":
        launcher = Ray(folder, paths, args.jobs, resources, args.members_at_once)
    else:
        launcher = Local(folder, paths, args.jobs, args.members_at_once)
    work = [[point] for point in left]
    if args.members_at_once != 0:
        work = jobs.group(left, args.jobs)
    progress = SweepProgress(folder, work, len(points))
    text = (
        f"{folder.sweep.name}: {len(points)} points, {len(points) - len(left)} of them done before"
    )
    if together := sum(len(job) for job in work if len(job) > 1):
        text += f"; {together} may be trained together, {len(work)} jobs in all"
    progress.say(f"{text}. Logs are in {folder.path / 'logs'}")
    for point in left:
        folder.forget_failure(point)
    by_name = {point.name: point for point in left}

    def report(outcome: Any) -> None:
        point = by_name[outcome.point]
        if outcome.status == "failed":
            error = folder.sweep.in_terms_of_axes(outcome.error)
            outcome = dataclasses.replace(outcome, error=error)
            folder.fail(point, outcome.error)
        if outcome.status == "stopped":
            progress.say(f"{point.name}: stopped, to be continued")
        else:
            progress.ended(outcome, folder.row(point)["value"])
        folder.write()

    with _signals(launcher) as received:
        try:
            if work:
                with told_while(progress.running):
                    launcher(work, report)
        except KeyboardInterrupt:
            pass
        finally:
            progress.close()
    rows = _finish(folder)
    if received:
        say(
            f"dpt sweep: stopped by {signal.Signals(received[0]).name}; run the same command to "
            "continue"
        )
        return 128 + received[0]
    names = {point.name for point in points}
    statuses = [row["status"] for row in rows if row["point"] in names]
    unfinished = sum(status not in ("done", "failed") for status in statuses)
    if unfinished:
        say(f"dpt sweep: {unfinished} points were stopped; run the same command to continue")
    return 1 if unfinished or "failed" in statuses else 0


def _finish(folder: Any) -> list[dict[str, Any]]:
    """Writes the tables and figures, and prints the table."""
    import dataclasses

    from dpt_jax.analysis import page
    from dpt_jax.files import json_ready, write_text

    rows = folder.write()
    report = json_ready(dataclasses.asdict(folder.report))
    made = page.section(folder.sweep.name, rows, report, folder.path / page.FIGURES)
    text = page.to_markdown([made], folder.sweep.name, page.FIGURES, named=False)
    write_text(folder.path / "table.md", text)
    _print(made)
    drawn = f", {page.FIGURES}/" if (folder.path / page.FIGURES).is_dir() else ""
    print(f"\nWritten: {folder.path}/results.jsonl, results.csv, table.md{drawn}")
    return rows


def _print(section: Any) -> None:
    shown = section.table
    print_table(shown.header, shown.rows, left=shown.labels, title=section.title)
    for text in (shown.caption, *shown.notes):
        print(text)
    for verdict in section.verdicts:
        print(f"{verdict.text} {verdict.verdict}: {verdict.numbers}")


@contextlib.contextmanager
def _signals(launcher: Any) -> Iterator[list[int]]:
    """Stops the launcher at SIGTERM and SIGINT; a second one acts as it would have."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handler(signum, frame):
        del frame
        received.append(signum)
        signal.signal(signum, previous[signum])
        say(f"{signal.Signals(signum).name}: {launcher.AT_STOP}")
        launcher.stop()

    try:
        for signum in (signal.SIGTERM, signal.SIGINT):
            previous[signum] = signal.signal(signum, handler)
    except ValueError:
        pass  # Only a process's main thread may handle signals; elsewhere the caller does.
    try:
        yield received
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
