"""Commands that read no SeqIO task run where neither TensorFlow nor SeqIO can be imported."""

import importlib.util
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from dpt_jax import run_files
from dpt_jax.cli.main import main
from dpt_jax.demo import BACKBONE_DIR

# One process for all commands: it prints the exit status and the output of each.
SCRIPT = """
import contextlib, io, json, sys
BANNED = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "clu")
sys.modules.update(dict.fromkeys(BANNED))
from dpt_jax.cli.main import main
assert "jax" not in sys.modules and "numpy" not in sys.modules
for argv, text in json.loads(sys.argv[1]):
    sys.stdin, output = io.TextIOWrapper(io.BytesIO(text.encode())), io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main(argv)
    print(json.dumps([status, output.getvalue()]))
"""
LINES = "is the red cup big ?\\na dog <extra_id_0> Ä\n"


def training(folder, module="dpt_jax.demo.text_tasks"):
    """The arguments of two steps on a task of the demo."""
    flags = {
        "PROMPT_LENGTH": 4,
        "BOTTLENECK": 2,
        "MIXTURE_OR_TASK_NAME": "demo_wordsense_k8_s0",
        "MIXTURE_OR_TASK_MODULE": module,
        "MODEL_DIR": str(folder),
        "TRAIN_STEPS": 2,
        "EVAL_PERIOD": 2,
        "BATCH_SIZE": 4,
        "EVAL_BATCH_SIZE": 100,
    }
    argv = ["train", "--gin_file=runs/demo.gin", "--gin_file=prompts/decomposed.gin"]
    return argv + [f"--gin.{name}={value!r}" for name, value in flags.items()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on SeqIO's task; its config.gin names a setting of the SuperGLUE tasks."""
    folder = tmp_path_factory.mktemp("tensorflow") / "run"
    assert main(training(folder, "dpt_jax.demo.tasks")) == 0
    config = folder / run_files.CONFIG
    # As a run on one of the SuperGLUE tasks has it.
    config.write_text(
        config.read_text()
        + "\nfrom dpt_jax.tasks import settings\nVOCABULARY = None\n"
        + "settings.vocabulary_file.path = %VOCABULARY\n"
    )
    return folder


@pytest.mark.slow
def test_commands_that_read_no_seqio_task(run, tmp_path, capsys, monkeypatch):
    exported = tmp_path / "exported"
    commands = [
        (["predict", f"--model_dir={run}"], LINES),
        (["predict", f"--model_dir={run}", "--gin.EVAL_BATCH_SIZE=2"], LINES),
        (["export", f"--model_dir={run}", f"--output={exported}"], ""),
        (["export", f"--model_dir={run}", f"--output={tmp_path / 'peft'}", "--format=peft"], ""),
        (["inspect", str(run), "--json"], ""),
        (["inspect", str(BACKBONE_DIR)], ""),
        (["rank", str(exported / "prompt.npy"), "--json"], ""),
        (["rank", str(run), "--no_score"], ""),
        (["convert", str(BACKBONE_DIR), str(tmp_path / "hf"), "--to=hf"], ""),
        (training(tmp_path / "texts"), ""),
    ]
    statuses = [0] * len(commands)
    files = ("runs/prompt_train.gin", "models/demo.gin", "recipes/paper.gin", "recipes/tpu.gin")
    plan = ["plan", "--topology=v5e:2x2", "--json", *(f"--gin_file={name}" for name in files)]
    if importlib.util.find_spec("libtpu"):
        lengths = '--gin.TASK_FEATURE_LENGTHS={"inputs": 16, "targets": 8}'
        commands.append(([*plan, lengths, "--gin.BATCH_SIZE=4"], ""))
        statuses.append(0)
    # Refused once everything is prepared, and so without a compiler for TPUs.
    commands.append(([*plan, "--gin.MESH=(1, 1, 8)"], ""))
    statuses.append(2)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [status for status, _ in answers] == statuses, done.stderr
    assert "does not make the 4 devices" in done.stderr

    # What a process with SeqIO predicts, from the task's own vocabulary.
    capsys.readouterr()
    (run / run_files.VOCABULARY).rename(tmp_path / "vocabulary.json")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LINES.encode())))
    assert main(["predict", f"--model_dir={run}"]) == 0
    assert answers[0][1] == answers[1][1] == capsys.readouterr().out
    # The task of texts is SeqIO's, to the bit.
    for name in (run_files.PIECES, "predictions/demo_wordsense_k8_s0_2.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "texts" / name).read_bytes(), name
    for name in (run_files.IDENTITY, run_files.METRICS):
        assert (run / name).read_text() == (tmp_path / "texts" / name).read_text(), name
    prompt = run_files.numpy_checkpoint(run, 2) / run_files.PROMPT
    np.testing.assert_array_equal(np.load(exported / "prompt.npy"), np.load(prompt))
