"""Tables, claims and figures of sweeps and runs on one page.

HTML that needs no other file, or Markdown with its pictures beside it.
"""

import base64
import dataclasses
import html
import itertools
import json
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from dpt_jax import run_files
from dpt_jax.analysis import claims, figures, results, t5x_runs, tables
from dpt_jax.analysis.report import Report
from dpt_jax.analysis.results import RESULTS, SWEEP, read_results
from dpt_jax.analysis.tables import as_markdown
from dpt_jax.errors import InputError
from dpt_jax.files import atomic_write

FIGURES = "figures"


@dataclasses.dataclass(frozen=True)
class Section:
    """A sweep, or some runs, as they are shown.

    Attributes:
      name: short, for the names of files.
      title: the heading.
      command: what made the results.
      table: the results.
      verdicts: the paper's claims.
      pictures: PNG files, by the kind of figure.
      facts: how many points and how long they took.
    """

    name: str
    title: str
    command: str
    table: tables.Table
    verdicts: list[claims.Verdict]
    pictures: dict[str, bytes]
    facts: str


def section(
    name: str,
    rows: Sequence[tables.Row],
    report: Mapping[str, Any],
    pictures: pathlib.Path,
    command: str = "",
) -> Section:
    """Makes a section, and draws its figures into the folder `pictures`."""
    drawn = {path.stem: path.read_bytes() for path in figures.write_all(pictures, rows, report)}
    done = sum(row["status"] == "done" for row in rows)
    facts = f"{done} of {len(rows)} points"
    times = [row["train_seconds"] for row in rows if row["status"] == "done"]
    # T5X does not say how long a run took.
    if None not in times:
        facts += f", {sum(times):,.0f} s of training and evaluation"
    return Section(
        name,
        report["title"] or name,
        command,
        tables.table(rows, report),
        [claims.judge(claim, rows, report) for claim in report["claims"]],
        drawn,
        f"{facts}.",
    )


def read_sweep(path: pathlib.Path, pictures: pathlib.Path) -> Section:
    """The section of a sweep's folder, or of the `results.jsonl` in it.

    Raises:
      InputError: when a file is missing or damaged, or the results are those of another sweep.
    """
    where = path.parent if path.is_file() else path
    if not (where / SWEEP).exists():
        raise InputError(
            f"{where} has {RESULTS}, but no {SWEEP} that says what to show of it. "
            "Name the folder that dpt sweep wrote."
        )
    sweep = json.loads((where / SWEEP).read_text())
    rows = read_results(where)
    for row in rows:
        known = sweep["points"].get(row["point"])
        if row["sweep"] != sweep["name"] or known is None or known["axes"] != row["axes"]:
            raise InputError(
                f"{where / RESULTS} is the results file of another sweep than "
                f"{where / SWEEP}: it has the point {row['point']} of {row['sweep']}, and "
                f"that is the sweep {sweep['name']}."
            )
    return section(sweep["name"], rows, sweep["report"], pictures, sweep.get("command", ""))


def read_runs(paths: Sequence[pathlib.Path], pictures: pathlib.Path) -> Section:
    """One section for runs that belong to no sweep: a row per run, a column per task."""
    rows = []
    for path in paths:
        row = {"sweep": "runs", "point": path.name, **results.read_run(path)}
        task = ", ".join(row.get("metrics") or {}) or "score"
        rows.append({**row, "axes": {"run": path.name, "task": task}})
    shown: dict[str, Mapping[str, Any]] = {"curves": {}, "parameters": {"lines": "run"}}
    shown["spectra"] = {}
    if any("positive_entries" in (row.get("curves") or {}) for row in rows):
        shown["rank"] = {}
    report = Report(title="Runs", score="score", figures=shown).resolved(["run", "task"])
    made = section("runs", rows, dataclasses.asdict(report), pictures)
    # What `dpt attention` has drawn of runs on images.
    drawn = {
        f"{path.name}_{name.removesuffix('.png')}": (path / run_files.ATTENTION / name).read_bytes()
        for path in paths
        for name in run_files.ATTENTION_PICTURES
        if (path / run_files.ATTENTION / name).exists()
    }
    return dataclasses.replace(made, pictures=made.pictures | drawn)


def gather(paths: Sequence[pathlib.Path]) -> list[Section]:
    """The sections of sweeps and runs, sweeps first.

    Raises:
      InputError: for a path that is neither, or two runs of one name.
    """
    sweeps, runs = [], []
    for path in paths:
        if path.name == RESULTS or (path / RESULTS).exists():
            sweeps.append(path)
        elif (path / run_files.IDENTITY).exists() or t5x_runs.is_run(path):
            runs.append(path)
        else:
            raise InputError(
                f"{path} is neither the folder of dpt sweep (with {RESULTS}) nor the MODEL_DIR of "
                "dpt train or t5x.train." + ("" if path.exists() else " It does not exist.")
            )
    names = [path.name for path in runs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two of the runs are called {name}; a report needs different names.")
    with tempfile.TemporaryDirectory() as temporary:
        made = [read_sweep(path, pathlib.Path(temporary) / str(i)) for i, path in enumerate(sweeps)]
        if runs:
            made.append(read_runs(runs, pathlib.Path(temporary) / "runs"))
    return made


def write(path: pathlib.Path, sections: Sequence[Section], title: str, text: str = "") -> None:
    """Writes a report, in the form that the file's suffix names: .html or .md.

    Args:
      path: the file. Markdown has its pictures in the folder of the same name beside it.
      sections: what to show.
      title: the heading.
      text: a paragraph under it.

    Raises:
      InputError: for another suffix.
    """
    if path.suffix == ".html":
        content = to_html(sections, title, text)
    elif path.suffix == ".md":
        content = to_markdown(sections, title, path.stem, text)
        for one in sections:
            for kind, png in one.pictures.items():
                with atomic_write(path.parent / _picture(path.stem, one, kind)) as temporary:
                    temporary.write_bytes(png)
    else:
        raise InputError(f"--output is {path}; a report ends in .html or .md.")
    with atomic_write(path) as temporary:
        temporary.write_text(content)


def to_markdown(
    sections: Sequence[Section],
    title: str,
    pictures: str,
    text: str = "",
    *,
    named: bool = True,
) -> str:
    """The report as Markdown.

    Args:
      sections: what to show.
      title: the heading.
      pictures: the folder beside it that has the pictures.
      text: a paragraph under the heading.
      named: whether a picture's file is called `<section>_<kind>.png`, and not `<kind>.png`.
    """
    parts = [f"# {as_markdown(title)}", *([text] if text else [])]
    if len(sections) > 1 and any(one.verdicts for one in sections):
        lines = (
            f"| [{as_markdown(one.title)}](#{_anchor(one.title)}) | {as_markdown(v.text)} "
            f"| **{v.verdict}** |"
            for one in sections
            for v in one.verdicts
        )
        parts.append("\n".join(["| | claim | |", "| --- | --- | --- |", *lines]))
    for one in sections:
        parts.append(f"## {as_markdown(one.title)}")
        if one.command:
            parts.append(f"```sh\n{one.command}\n```")
        parts += [one.table.markdown().strip(), one.facts]
        if one.verdicts:
            parts.append(
                "\n".join(
                    f"- {as_markdown(v.text)} **{v.verdict}**: {as_markdown(v.numbers)}."
                    for v in one.verdicts
                )
            )
        shown = one if named else None
        parts += [
            f"![{as_markdown(one.title)}: {kind}]({_picture(pictures, shown, kind)})"
            for kind in one.pictures
        ]
    return "\n\n".join(parts) + "\n"


def _picture(folder: str, section: Section | None, kind: str) -> str:
    return f"{folder}/{section.name}_{kind}.png" if section else f"{folder}/{kind}.png"


def _anchor(heading: str) -> str:
    """What GitHub calls a heading's place on its page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 2rem auto;
       max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ddd;
     padding-top: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.88rem;
        display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.7rem; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #444; } td { border-bottom: 1px solid #e6e6e6; }
table ~ p, table + p + ul { color: #555; font-size: 0.85rem; margin: 0.4rem 0; }
pre { background: #f4f4f4; padding: 0.6rem; overflow-x: auto; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
.holds { color: #006b3c; } .fails { color: #a8320a; } .open { color: #555; }
"""
# Figures have 150 dots an inch; a page shows about 96 of them.
_SHOWN = 0.72
_CLASSES = {
    claims.HOLDS: "holds",
    claims.FAILS: "fails",
    claims.UNDECIDED: "open",
    claims.OPEN: "open",
}


def to_html(sections: Sequence[Section], title: str, text: str = "") -> str:
    """The report's Markdown as one HTML page without any other file or address."""
    from markdown_it import MarkdownIt

    # Knows tables, and shows HTML in the text as it is written.
    markdown = MarkdownIt("js-default")
    tokens = markdown.parse(to_markdown(sections, title, FIGURES, text))
    pictures = {
        _picture(FIGURES, one, kind): png for one in sections for kind, png in one.pictures.items()
    }
    for heading, inside in itertools.pairwise(tokens):
        if heading.type == "heading_open":
            plain = "".join(child.content for child in inside.children or ())
            heading.attrSet("id", _anchor(plain))
    for token in itertools.chain.from_iterable(token.children or () for token in tokens):
        if token.type == "image" and (png := pictures.get(str(token.attrs["src"]))):
            token.attrSet("src", f"data:image/png;base64,{base64.b64encode(png).decode()}")
            # Its header has the width. Text is then of one size in all, about that of the page.
            token.attrSet("width", str(round(_SHOWN * int.from_bytes(png[16:20]))))
    body = markdown.renderer.render(tokens, markdown.options, {})
    for verdict, name in _CLASSES.items():
        body = body.replace(
            f"<strong>{verdict}</strong>", f"<strong class={name}>{verdict}</strong>"
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}</body></html>\n"
    )
