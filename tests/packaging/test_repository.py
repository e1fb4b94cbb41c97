"""What the repository promises of the files it tracks."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are tracked")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def test_tracked_files_are_small_except_the_backbone(tracked):
    backbone = ROOT / "dpt_jax" / "demo" / "backbone"
    limits = {path: 4 * MEGABYTE if backbone in path.parents else MEGABYTE for path in tracked}
    assert [path for path, limit in limits.items() if path.stat().st_size > limit] == []


def test_no_tracked_file_records_a_package_index(tracked):
    # Written in pieces, so that this file does not contain what it looks for.
    index = re.compile(b"|".join([b"index" + b"[-_]url", b"find" + b"-links", b"/simple" + b"/"]))
    text = [path for path in tracked if path.suffix not in {".safetensors", ".model", ".png"}]
    assert [path for path in text if index.search(path.read_bytes())] == []


def test_the_extras_are_the_documented_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set("docs gpu images interop ray release t5x test tokenizers tpu".split())
    assert set(project["optional-dependencies"]) == extras


def test_the_readme_links_to_files_that_exist():
    for document in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text())
        missing = [link for link in links if not (ROOT / link).exists()]
        assert missing == [], document


# Files and methods that a reader makes, in the text that names them.
OF_THE_READER = {"prompts/scaled.gin", "my_run.gin", "my_sweep.gin", "my_task.gin"}


@pytest.mark.parametrize("flag", ["gin_file", "recipe", "prompt", "prefix"])
def test_the_documents_name_gin_files_that_exist(flag):
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = {m for p in pages for m in re.findall(rf"--{flag}=([\w./]+)", p.read_text())}
    if flag == "gin_file":
        named = {name for name in found if name.endswith(".gin")}
    else:
        folder = "prefixes" if flag == "prefix" else f"{flag}s"
        named = {f"{folder}/{name}.gin" for name in found if re.fullmatch(r"\w+", name)}
    assert named
    missing = {name for name in named if not (ROOT / "gin_configs" / name).is_file()}
    assert missing <= OF_THE_READER
