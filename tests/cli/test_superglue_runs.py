"""Runs on the SuperGLUE tasks: the shots of a few-shot run, and what is refused before it.

In processes of their own, because the tasks choose their vocabulary once per process.
"""

import hashlib
import json
import subprocess
import sys
import zipfile

import pytest

from dpt_jax.demo import VOCABULARY
from tests.support import processes, runs

pytestmark = pytest.mark.slow

IDS = [3, 141, 7, 20, 55, 18, 90, 62]
LABELS = ("entailment", "contradiction", "neutral")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CB in the layout of the official download, and the gin file of a small T5."""
    folder = tmp_path_factory.mktemp("superglue")
    (folder / "CB").mkdir()
    for file, ids in (("train", IDS), ("val", [1, 2, 3]), ("test", [4, 5])):
        rows = [{"premise": f"a dog {i}", "hypothesis": "a cat", "idx": i} for i in ids]
        if file != "test":
            rows = [row | {"label": LABELS[row["idx"] % 3]} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "CB" / f"{file}.jsonl").write_text(text)
    # The demo's 256 pieces and T5's 100 sentinels.
    gin = runs.GIN.replace("vocab_size = 264", "vocab_size = 384")
    (folder / "tiny.gin").write_text(gin)
    return folder


def dpt(folder, *argv):
    """Status, standard output and standard error of a command."""
    variables = {"DPT_SUPERGLUE_DIR": str(folder), "DPT_VOCAB": str(VOCABULARY)}
    done = processes.run("dpt_jax", *argv, **variables)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def train(superglue, name, model_dir, *more, gin):
    argv = runs.arguments(
        model_dir,
        gin.parent / "backbone",
        INITIAL_CHECKPOINT_PATH=None,
        MIXTURE_OR_TASK_NAME=name,
        MIXTURE_OR_TASK_MODULE="dpt_jax.tasks",
        TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 16},
        TRAIN_STEPS=1,
        NUM_BUCKETS=1,
        SCORING="rank",
    )
    return dpt(superglue, *argv, *more)


def test_a_few_shot_run_lists_its_examples(folder, tmp_path):
    # The binding wins over the environment, and goes into the run's configuration.
    binding = f"--gin.settings.superglue_dir.path={str(folder)!r}"
    status, _, err = train(
        tmp_path, "dpt_cb_k4_s7", tmp_path / "run", binding, gin=folder / "tiny.gin"
    )
    assert status == 0, err
    assert "dpt_cb_k4_s7: 4 examples" in err
    # The four with the smallest hashes of task, seed and id.
    order = sorted(IDS, key=lambda i: hashlib.sha256(f"cb 7 {i}".encode()).digest())
    expected = {"dpt_cb_k4_s7": [[i] for i in sorted(order[:4])]}
    assert json.loads((tmp_path / "run" / "few_shot.json").read_text()) == expected
    predictions = (tmp_path / "run" / "predictions" / "dpt_cb_k4_s7_1.jsonl").read_text()
    records = [json.loads(line) for line in predictions.splitlines()]
    # Validation is the full set.
    assert sorted(record["idx"] for record in records) == [[1], [2], [3]]
    assert all(record["candidates"] == list(LABELS) for record in records)

    # The run's own configuration is enough to evaluate it, and its standard error is clean.
    status, out, err = dpt(tmp_path, "evaluate", f"--model_dir={tmp_path / 'run'}")
    assert status == 0, err
    assert err == "WARNING: INITIAL_CHECKPOINT_PATH is None: the backbone has random weights.\n"
    [logged] = [row for row in runs.metrics(tmp_path / "run") if row["split"] == "validation"]
    metrics = json.loads(out)["metrics"]["dpt_cb_k4_s7"]
    assert metrics["accuracy"] == logged["accuracy"] and metrics["invalid"] == 0

    # The run keeps the vocabulary that the tasks have found; its config.gin names their settings.
    kept = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    assert kept == {"kind": "sentencepiece", "extra_ids": 0, "add_eos": True}
    assert "from dpt_jax.tasks import settings" in (tmp_path / "run" / "config.gin").read_text()
    (tmp_path / "lines.txt").write_text("cb hypothesis: a cat premise: a dog\n")
    blocked = "import sys; sys.modules.update(tensorflow=None, seqio=None)\n"
    argv = ["predict", f"--model_dir={tmp_path / 'run'}", f"--input={tmp_path / 'lines.txt'}"]
    script = f"{blocked}from dpt_jax.cli.main import main; sys.exit(main({argv!r}))"
    # A new process, since a forked one has imported both.
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300, stdout=subprocess.PIPE)

    # The test split keeps its labels secret.
    status, out, err = dpt(folder, "evaluate", f"--model_dir={tmp_path / 'run'}", "--split=test")
    assert (status, out) == (2, "")
    assert "2 of 2 rows have no label" in err and "'dpt_cb_k4_s7' cannot be evaluated" in err

    # Its answers can be handed in, beside those to other tasks.
    archive = tmp_path / "answers.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("RTE.jsonl", "as it was")
        file.writestr("CB.jsonl", "to be replaced")
    status, out, err = dpt(
        folder,
        "evaluate",
        f"--model_dir={tmp_path / 'run'}",
        f"--submission={archive}",
        f"--predictions={tmp_path}",
    )
    assert status == 0, err
    assert json.loads(out)["metrics"] == {}
    [records] = [path.read_text().splitlines() for path in tmp_path.glob("dpt_cb_k4_s7_*.jsonl")]
    said = {record["idx"][0]: record["output"] for record in map(json.loads, records)}
    with zipfile.ZipFile(archive) as file:
        assert file.read("RTE.jsonl") == b"as it was"
        lines = [json.loads(line) for line in file.read("CB.jsonl").splitlines()]
    assert lines == [{"idx": i, "label": said[i]} for i in (4, 5)]
    assert set(said.values()) <= set(LABELS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dpt_cb_k9_s0", "k = 9 examples of cb cannot be drawn"),
        ("dpt_cb_k0_s0", "few-shot k is 0; it must be an integer from 1"),
    ],
)
def test_data_that_is_not_there_is_one_message(folder, tmp_path, name, message):
    status, out, err = train(folder, name, tmp_path / "run", gin=folder / "tiny.gin")
    assert (status, out) == (2, "")
    assert message in err and name in err
    assert not (tmp_path / "run").exists()
