"""What cannot be written, and what the machine has no room for, is one line and no traceback."""

import json

import jax
import numpy as np
import optax
import pytest

from dpt_jax.cli import outputs
from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.interop import save_prompt
from tests.support import runs

# A folder in which nobody can make a file, root included.
NOWHERE = "/proc/nowhere"


def said(capsys, *argv):
    """Status, and the one line on standard error."""
    capsys.readouterr()
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, err


@pytest.mark.parametrize(
    "argv",
    [
        ["demo", "--output={}"],
        ["sweep", "demo_bottleneck", "--output={}"],
        ["rank", "prompt.npy", "--output={}"],
        ["evaluate", "--model_dir=run", "--predictions={}"],
        ["report", "run", "--output={}/report.html"],
        ["predict", "--model_dir=run", "--output={}/answers.txt"],
        ["export", "--prompt=prompt.npy", "--output={}"],
        ["export", "--prompt=prompt.npy", "--output={}/prompt.npy"],
    ],
    ids=lambda argv: argv[0],
)
@pytest.mark.parametrize("place", [NOWHERE, "file"])
def test_a_place_that_cannot_be_written_is_named_before_any_work(
    argv, place, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    save_prompt("prompt.npy", np.zeros((4, 8), np.float32))
    (tmp_path / "file").write_text("mine")
    before = runs.contents(tmp_path)
    status, err = said(capsys, *(a.format(place) for a in argv))
    assert status == 2 and place in err and len(err.splitlines()) == 1
    assert runs.contents(tmp_path) == before


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    outputs.require_file(tmp_path / "new" / "a.txt", "--output")
    outputs.require_folder(tmp_path / "new" / "folder", "--output")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=f"--output = {tmp_path} is a folder"):
        outputs.require_file(tmp_path, "--output")


@pytest.mark.slow
def test_a_disk_that_fills_up_does_not_cost_the_metrics(backbone, tmp_path, monkeypatch, capsys):
    def full(path, _):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("dpt_jax.files.write_json_lines", full)
    gin = [a for a in runs.arguments("", backbone)[1:] if "MODEL_DIR" not in a]
    capsys.readouterr()
    status = main(["evaluate", *gin, "--no_prompt", f"--predictions={tmp_path}"])
    out, err = capsys.readouterr()
    assert status == 2 and "No space left on device" in err and "Traceback" not in err
    assert "accuracy" in json.loads(out)["metrics"]["toy_x"]


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nmore"),
        MemoryError("Unable to allocate 7. TiB for an array"),
    ],
)
def test_a_batch_that_is_too_large_for_the_memory_names_what_to_lower(
    error, backbone, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise error

    monkeypatch.setattr("dpt_jax.problems.text.train", fail)
    status, err = said(capsys, *runs.arguments(tmp_path / "run", backbone))
    assert status == 2 and len(err.splitlines()) == 1
    assert str(error).splitlines()[0] in err and "Lower --gin.BATCH_SIZE" in err


@pytest.mark.parametrize(
    ("optimizer", "reason"), [(optax.lbfgs, "value"), (optax.sm3, "operand"), (optax.rprop, "")]
)
def test_an_optimizer_that_asks_for_more_than_gradients_is_refused(optimizer, reason, tmp_path):
    config = runs.run_config(tmp_path, "nowhere", optimizer=optimizer)
    with pytest.raises(InputError, match=f"OPTIMIZER is {optimizer.__name__}.*{reason}"):
        config.check_optimizer({"A": np.zeros((2, 2), "f4")}, 10)


def test_optimizers_of_optax_are_taken(tmp_path):
    for optimizer in (optax.adamw, optax.adafactor, optax.lion, optax.lamb, optax.sgd, optax.adan):
        config = runs.run_config(tmp_path, "nowhere", optimizer=optimizer)
        config.check_optimizer({"A": np.zeros((2, 2), "f4")}, 10)
