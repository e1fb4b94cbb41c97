"""What a person writes for a path is found, in the home folder and in a bucket."""

import pathlib
import subprocess
import sys

import pytest

from dpt_jax.errors import InputError
from dpt_jax.paths import absolute, as_path, in_bucket


def test_paths_of_this_machine_are_pathlibs_and_need_no_library(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert as_path("~/runs/a") == pathlib.Path("/home/someone/runs/a")
    assert absolute("runs") == pathlib.Path.cwd() / "runs"
    assert not in_bucket("runs:/a")
    code = (
        "import sys; from dpt_jax import files, locks; from dpt_jax.paths import as_path\n"
        "as_path('~/runs'); files.entries('.')\n"
        "print([name for name in ('etils', 'tensorflow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_home_folder_that_is_not_known_is_told():
    with pytest.raises(InputError, match=r"~nosuchuser/run begins with .* or \./~nosuchuser/run"):
        as_path("~nosuchuser/run")


def test_a_path_in_a_bucket_keeps_its_slashes_and_joins():
    path = as_path("gs://bucket/runs") / "a" / "run.json"
    assert str(path) == str(absolute(path)) == "gs://bucket/runs/a/run.json"
    assert in_bucket(path) and path.parent.name == "a"


def test_a_kind_of_bucket_that_is_not_known_or_has_no_library_is_told(monkeypatch):
    with pytest.raises(InputError, match="ram://run begins with ram://.*gs://, s3://"):
        as_path("ram://run")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package s3fs: pip install s3fs"):
        as_path("s3://bucket/run")
