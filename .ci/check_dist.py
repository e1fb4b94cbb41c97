"""Checks what is about to be released: `python .ci/check_dist.py dist`.

The folder holds one wheel and one source distribution of the version in dpt_jax/version.py. The
wheel has every module, gin file and part of the demo's model; the source distribution has every
file that git tracks, but for what only a repository needs.
"""

import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
ONLY_IN_A_REPOSITORY = (".github/", ".gitignore")
# Folders beside the package, and where a wheel has them.
MOVED = {"tasks/": "dpt_jax/tasks/", "gin_configs/": "dpt_jax/gin_configs/"}


def missing_from_wheel(names: set[str], tracked: list[str]) -> list[str]:
    """The tracked files that belong into a wheel and are not among its names."""
    wanted = [name for name in tracked if name.startswith(("dpt_jax/", *MOVED))]
    for folder, package in MOVED.items():
        wanted = [re.sub(f"^{folder}", package, name) for name in wanted]
    return [name for name in wanted if name not in names]


def missing_from_source(names: set[str], tracked: list[str]) -> list[str]:
    """The tracked files that belong into a source distribution and are not among its names."""
    return [
        name for name in tracked if not name.startswith(ONLY_IN_A_REPOSITORY) and name not in names
    ]


def main(folder: str) -> int:
    """Prints what is wrong; the exit status is 1 when something is."""
    version = re.search(r'"(.+)"', (ROOT / "dpt_jax/version.py").read_text().split("=", 1)[1])[1]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, check=True)
    tracked = listed.stdout.decode().splitlines()
    found = sorted(path.name for path in pathlib.Path(folder).iterdir())
    wheel, source = f"dpt_jax-{version}-py3-none-any.whl", f"dpt_jax-{version}.tar.gz"
    if found != [wheel, source]:
        print(f"{folder} holds {', '.join(found)}; expected {wheel} and {source}")
        return 1
    with zipfile.ZipFile(pathlib.Path(folder) / wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(pathlib.Path(folder) / source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    wrong = [f"{name} is not in the wheel" for name in missing_from_wheel(in_wheel, tracked)]
    wrong += [f"{name} is not in the sdist" for name in missing_from_source(in_source, tracked)]
    print("\n".join(wrong) or f"{wheel} and {source} are whole")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
