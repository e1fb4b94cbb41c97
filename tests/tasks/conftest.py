"""Hand-made SuperGLUE, as jsonl and as the TFDS data set that TFDS itself makes of it."""

import importlib
import os
import pathlib
from unittest import mock

import pytest

from tests.tasks import raw_rows

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The vocabulary is chosen once per process, and without this it would be looked for in the network.
os.environ.setdefault(
    "DPT_VOCAB", str(ROOT / "dpt_jax" / "demo" / "backbone" / "sentencepiece.model")
)


@pytest.fixture(autouse=True)
def no_data_by_default(monkeypatch):
    monkeypatch.delenv("DPT_SUPERGLUE_DIR", raising=False)


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("superglue")
    raw_rows.write(folder)
    return folder


@pytest.fixture
def jsonl(raw, monkeypatch) -> pathlib.Path:
    """The tasks read the hand-made jsonl."""
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(raw))
    return raw


def prepare(raw: pathlib.Path, data_dir: pathlib.Path, *configs: str) -> None:
    """TFDS's own `super_glue` prepares its data sets from `raw` instead of a download."""
    tfds = importlib.import_module("tensorflow_datasets")
    super_glue = importlib.import_module("tensorflow_datasets.text.super_glue")
    tfds.disable_progress_bar()
    with mock.patch.object(
        tfds.download.DownloadManager, "download_and_extract", lambda self, url: str(raw)
    ):
        for config in configs:
            builder = super_glue.SuperGlue(config=config, data_dir=data_dir)
            offline = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=offline)


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    prepare(raw, folder, *(n if n != "wsc" else "wsc.fixed" for n in raw_rows.FOLDERS))
    return folder


@pytest.fixture
def tfds_dir(prepared, monkeypatch):
    """The tasks read the TFDS data set of the hand-made rows."""
    import seqio

    seqio.set_tfds_data_dir_override(str(prepared))
    yield prepared
    seqio.set_tfds_data_dir_override(None)
