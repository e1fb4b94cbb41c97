"""The trainer trains whatever it is handed: here a linear map on arrays, without any text."""

import json
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpt_jax.analysis import results
from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError, Stopped
from dpt_jax.training import checkpoints, trainer
from dpt_jax.training.config import TrainingConfig
from dpt_jax.training.problem import Evaluation, Problem, TaskResult

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(64, 5)).astype(np.float32)
FEATURES, TARGET = RNG.normal(size=(5, 4)), RNG.normal(size=(4,))
TARGETS = (INPUTS @ FEATURES @ TARGET).astype(np.float32)


class Rows:
    """Sixty-four rows, eight steps an epoch, each drawn from (seed, step) alone."""

    steps_per_epoch = 8

    def __init__(self, seed):
        self.seed = seed

    def batch(self, step, rows):
        chosen = np.random.default_rng([self.seed, step]).integers(0, len(INPUTS), 8)[rows]
        return {"x": INPUTS[chosen], "y": TARGETS[chosen]}


def loss_fn(trainable, frozen, batch, key):
    del key
    errors = batch["x"] @ frozen["features"] @ trainable["head"]["w"] - batch["y"]
    return jnp.sum(errors**2), jnp.float32(len(errors))


def evaluate(params):
    error = INPUTS @ np.asarray(params["features"]) @ np.asarray(params["head"]["w"]) - TARGETS
    found = {"mse": float(np.mean(error**2))}
    return Evaluation(-found["mse"], [TaskResult("rows", found, [{"error": error[:3]}])])


def problem(seed=0, width=4):
    params = {"features": FEATURES.astype(np.float32), "head": {"w": np.zeros(width, np.float32)}}
    identity = {"rows": "gaussian", "width": width}
    return Problem("linear", params, "head/.*", loss_fn, Rows(seed), identity, evaluate=evaluate)


def config(folder, **changes):
    settings = {"train_steps": 24, "batch_size": 8, "optimizer": optax.sgd, "log_period": 4}
    settings["learning_rate"] = lambda steps: optax.constant_schedule(0.05)
    return TrainingConfig(model_dir=str(folder), **settings | changes)


def by_hand(steps, seed=0):
    """Gradient descent in numpy, in float64."""
    w = np.zeros(4)
    for step in range(steps):
        batch = Rows(seed).batch(step, np.arange(8))
        x = batch["x"].astype(np.float64) @ FEATURES
        w -= 0.05 * 2 * x.T @ (x @ w - batch["y"]) / 8
    return w


def trained(folder, step):
    return checkpoints.Checkpoints(folder, create=False).restore_params(step)["head"]["w"]


def metrics(folder):
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def test_it_is_trained_as_by_hand_and_leaves_a_whole_run_folder(tmp_path):
    summary = trainer.train(config(tmp_path), problem())
    np.testing.assert_allclose(trained(tmp_path, 24), by_hand(24), rtol=1e-4, atol=1e-5)
    assert summary["trainable_parameters"] == 4 and summary["last_step"] == 24
    assert summary["best_value"] == -summary["metrics"]["rows"]["mse"]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if line["split"] == "train"] == [4, 8, 12, 16, 20, 24]
    evaluated = [line["mse"] for line in lines if line["split"] == "validation"]
    w = by_hand(summary["best_step"])
    expected = np.mean((INPUTS @ FEATURES @ w - TARGETS) ** 2)
    assert min(evaluated) == pytest.approx(expected, rel=1e-3)
    identity = json.loads((tmp_path / "run.json").read_text())
    assert identity["rows"] == "gaussian" and identity["data.random_seed"] == 0
    written = (tmp_path / "predictions" / "rows_24.jsonl").read_text()
    assert len(json.loads(written)["error"]) == 3


def signal_from(step, monkeypatch):
    """Has SIGTERM come with the batch of a step, and of those after it."""
    put, before = partitioning.put_batch, iter(range(step - 1))

    def interrupted(batch, mesh):
        if next(before, None) is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return put(batch, mesh)

    monkeypatch.setattr(partitioning, "put_batch", interrupted)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = trainer.train(config(whole), problem())
    with monkeypatch.context() as patch:
        signal_from(11, patch)
        with pytest.raises(Stopped, match="step 11"):
            trainer.train(config(broken), problem())
    found = trainer.train(config(broken), problem())
    assert found | {"train_seconds": 0} == expected | {"train_seconds": 0}
    assert trained(broken, 24).tobytes() == trained(whole, 24).tobytes()
    assert metrics(broken) == metrics(whole)


def broken_off(folder, step, monkeypatch):
    """A run of 24 steps whose process ends as it begins the batch behind `step`."""
    put = partitioning.put_batch
    left = iter([None] * step)

    def put_batch(batch, mesh):
        if next(left, "over") == "over":
            raise KeyboardInterrupt
        return put(batch, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(partitioning, "put_batch", put_batch)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(config(folder), problem())


NULS = b"\0" * 40 + b"\n"


@pytest.mark.parametrize(
    "damaged",
    [NULS, b"5\n", b'{"step": 12}\n', b"\xff\n", NULS + NULS],
    ids=["nuls", "no object", "no row", "no text", "two lines"],
)
def test_a_damaged_line_beyond_the_checkpoint_is_dropped_and_it_is_said(
    tmp_path, monkeypatch, capsys, damaged
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer.train(config(whole), problem())
    # Saved at step 8, logged at 12.
    broken_off(broken, 14, monkeypatch)
    lines = (broken / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["step"] == 12
    (broken / "metrics.jsonl").write_bytes(b"".join(lines[:-1]) + damaged)
    capsys.readouterr()
    trainer.train(config(broken), problem())
    said = f"metrics.jsonl, line {len(lines)} is damaged, and dropped: it lies beyond step 8."
    assert said in capsys.readouterr().err
    assert metrics(broken) == metrics(whole)


@pytest.mark.parametrize("line", [0, 1])
def test_a_damaged_line_up_to_the_checkpoint_is_named_and_nothing_is_dropped(
    tmp_path, monkeypatch, line
):
    broken_off(tmp_path, 9, monkeypatch)
    log = tmp_path / "metrics.jsonl"
    # Training of steps 4 and 8, and the evaluation at 8, which a damaged line may have cost, too.
    lines = log.read_bytes().splitlines(keepends=True)
    lines[line:] = [NULS, *lines[line + 1 :]] if line == 0 else [NULS]
    log.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=rf"metrics.jsonl, line {line + 1} is damaged.*delete"):
        trainer.train(config(tmp_path), problem())
    assert log.read_bytes() == b"".join(lines)
    with pytest.raises(InputError, match=rf"metrics.jsonl, line {line + 1} is damaged"):
        results.read_curves(tmp_path)
    del lines[line]
    log.write_bytes(b"".join(lines))
    assert trainer.train(config(tmp_path), problem())["last_step"] == 24


def test_the_log_is_on_the_disk_before_the_checkpoint_is_written(tmp_path, monkeypatch):
    synced = {}
    sync, save = os.fsync, checkpoints.Checkpoints.save

    def fsync(handle):
        status = os.fstat(handle)
        synced[status.st_ino] = status.st_size
        sync(handle)

    def checked(self, state, progress):
        for log in [tmp_path / "metrics.jsonl", *tmp_path.glob("events.out.tfevents.*")]:
            assert synced[log.stat().st_ino] == log.stat().st_size
        save(self, state, progress)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", checked)
    trainer.train(config(tmp_path), problem())
    assert metrics(tmp_path)[-1]["step"] == 24


def test_a_signal_in_the_last_step_finds_a_finished_run(tmp_path, monkeypatch):
    signal_from(24, monkeypatch)
    summary = trainer.train(config(tmp_path), problem())
    assert (summary["last_step"], summary["train_steps"]) == (24, 24)


def test_it_stops_early_and_another_problem_is_refused_its_folder(tmp_path):
    rising = {"learning_rate": lambda steps: optax.constant_schedule(0.0)}
    changes = {"early_stopping_patience": 1, "eval_period": 4}
    summary = trainer.train(config(tmp_path, **changes, **rising), problem())
    assert summary["stopped_early"] and (summary["best_step"], summary["last_step"]) == (4, 8)
    with pytest.raises(InputError, match=r"width: saved 4, now 3"):
        trainer.train(config(tmp_path), problem(width=3))
    with pytest.raises(InputError, match=r"data.random_seed: saved 0, now 1"):
        trainer.train(config(tmp_path, random_seed=1), problem())


@pytest.mark.slow
def test_training_imports_nothing_of_text(tmp_path):
    code = (
        "import sys, tests.training.test_problem as t\n"
        "t.trainer.train(t.config(sys.argv[1]), t.problem())\n"
        "known = 'tensorflow seqio gin sentencepiece dpt_jax.models dpt_jax.data dpt_jax.interop "
        "dpt_jax.evaluation dpt_jax.problems'.split()\n"
        "print([name for name in known if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
