"""dpt report: one page from results files, without anything else."""

import dataclasses
import html.parser
import json
import re

import pytest

from dpt_jax.analysis.page import gather, to_html, to_markdown
from dpt_jax.analysis.report import Report
from dpt_jax.cli.main import main
from dpt_jax.sweeps import Sweep
from dpt_jax.sweeps.folder import SweepFolder

CLAIM = {"text": "More is better.", "better": {"BOTTLENECK": 4}, "than": {"BOTTLENECK": 2}}


@pytest.fixture
def folder(tmp_path):
    """The folder of a sweep with made-up results; one of its points failed."""
    sweep = Sweep(
        "made_up",
        grid={"BOTTLENECK": [2, 4], "task": ["a<b>", "c"], "seed": [0, 1]},
        report=Report(
            title="Made & up", figures={"score": {"x": "BOTTLENECK"}}, claims=[CLAIM], scale=100
        ),
    )
    points = sweep.expand()
    path = tmp_path / "made_up"
    SweepFolder(path, sweep, points, "dpt sweep made_up").open()
    rows = []
    for i, point in enumerate(points):
        row = {"sweep": "made_up", "point": point.name, "axes": dict(point.axes)}
        done = {"status": "done", "value": 0.1 * i, "trainable_parameters": 9, "train_seconds": 1}
        failed = {"status": "failed", "value": None, "error": "Out of [memory](x) in *a|b*."}
        rows.append(row | (failed if i == 7 else done))
    (path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Page(html.parser.HTMLParser):
    """Tags, their sources, and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.ids, self.open, self.cells = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.mark.slow
def test_a_page_holds_everything_in_itself(folder, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert main(["report", str(folder), f"--output={output}", "--title=All <of> it"]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    page = Page(output.read_text())
    assert page.open == []
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in page.addresses)
    assert page.tags.count("img") == 1 and "script" not in page.tags and "link" not in page.tags
    assert "a<b>" in page.cells and "All &lt;of&gt; it" in output.read_text()
    assert "url(" not in output.read_text()
    text = output.read_text()
    assert "dpt sweep made_up" in text and "7 of 8 points" in text
    assert "failed: Out of [memory](x) in *a|b*." in text
    # BOTTLENECK = 4 has scores 40, 50, 60 and a failure; its one whole seed is 40 and 60.
    assert re.search(
        r"More is better\. <strong class=open>undecided</strong>: 50\.00 \(1 of 2\) against 15",
        text,
    )


@pytest.mark.slow
def test_markdown_has_its_pictures_beside_it(folder, tmp_path):
    output = tmp_path / "docs" / "results.md"
    assert main(["report", str(folder), f"--output={output}", "--text=As run."]) == 0
    text = output.read_text()
    assert text.startswith("# Results\n\nAs run.\n\n## Made & up\n\n```sh\ndpt sweep made_up\n```")
    [picture] = re.findall(r"!\[.*\]\((.*)\)", text)
    assert (output.parent / picture).read_bytes().startswith(b"\x89PNG")
    assert "- More is better. **undecided**: 50.00 (1 of 2) against 15.00" in text


@pytest.mark.slow
def test_the_claims_of_several_sweeps_are_listed_first(folder):
    [one] = gather([folder])
    two = [one, dataclasses.replace(one, name="other", title="Other")]
    beginning = to_markdown(two, "Results", "results").split("## Made & up")[0]
    row = (
        "| [Made & up](#made--up) | More is better. | **undecided** |\n| [Other](#other) | More is"
    )
    assert row in beginning
    page = Page(to_html(two, "Results"))
    assert page.open == [] and {"made--up", "other"} <= set(page.ids)
    assert {"#made--up", "#other"} <= set(page.addresses)


def test_a_results_file_of_another_sweep_is_refused(folder, tmp_path, capsys):
    other = folder / "results.jsonl"
    other.write_text(other.read_text().replace('"made_up"', '"other"'))
    assert main(["report", str(folder), f"--output={tmp_path / 'p.html'}"]) == 2
    err = capsys.readouterr().err
    assert "results file of another sweep" in err and "of other" in err
    assert not (tmp_path / "p.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name what to report"),
        (["gone"], "gone is neither the folder of dpt sweep"),
        (["gone", "--output=page.pdf"], "ends in .html or .md"),
        (["gone", "--gin.X=1"], "takes no --gin. bindings"),
    ],
)
def test_what_cannot_be_reported_is_said(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "line 1 is no JSON object"), ('{"sweep": "a"}', "line 1 lacks axes, point, status")],
)
def test_a_damaged_results_file_is_refused(folder, content, message, capsys):
    (folder / "results.jsonl").write_text(content)
    assert main(["report", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_results_without_their_sweep_are_refused(folder, capsys):
    (folder / "sweep.json").unlink()
    assert main(["report", str(folder / "results.jsonl")]) == 2
    assert "no sweep.json" in capsys.readouterr().err
