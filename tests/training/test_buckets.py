"""A run whose folder is in a bucket: what it writes, and what a kill leaves."""

import json
import signal
import time

import numpy as np
import pytest

from dpt_jax import locks
from dpt_jax.errors import InputError
from dpt_jax.paths import as_path
from dpt_jax.run_files import LOCK
from dpt_jax.training import checkpoints, trainer
from tests.support import fake_bucket, processes, runs
from tests.support.killed_in_bucket import quick_locks
from tests.training.test_problem import config, metrics, problem, trained


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that gs://bucket is."""
    for name in ("HEARTBEAT_SECONDS", "EXPIRY_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(locks, name, getattr(locks, name))
    quick_locks()
    with fake_bucket.mounted(tmp_path / "bucket"):
        yield tmp_path / "bucket"


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disk, remote = tmp_path / "disk", "gs://bucket/runs/one"
    for steps in (12, 24):
        expected = trainer.train(config(disk, train_steps=steps), problem())
        found = trainer.train(config(remote, train_steps=steps), problem())
        assert found | {"train_seconds": 0} == expected | {"train_seconds": 0}
    folder = bucket / "runs" / "one"
    assert metrics(folder) == metrics(disk)
    assert runs.tensorboard(folder) == runs.logged(disk)
    np.testing.assert_array_equal(trained(remote, 24), trained(disk, 24))
    assert checkpoints.Checkpoints(remote).steps() == checkpoints.Checkpoints(disk).steps()
    for name in ("run.json", "predictions/rows_24.jsonl", "predictions/rows_12.jsonl"):
        assert (folder / name).read_bytes() == (disk / name).read_bytes()
    # Nothing went to a folder of that name here, and the lock is gone.
    assert {path.name for path in tmp_path.iterdir()} == {"bucket", "disk"}
    assert not (folder / LOCK).exists()
    with pytest.raises(InputError, match="random_seed: saved 0, now 1"):
        trainer.train(config(remote, random_seed=1), problem())


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_change_of_a_bucket_goes_on_to_the_same_result(tmp_path):
    trainer.train(config(tmp_path / "disk", eval_period=6), problem())
    bucket = tmp_path / "bucket"
    # Before the identity, in an evaluation, in checkpoints, just before their end, in pruning.
    for changes in (5, 9, 32, 46, 70):
        done = processes.run("tests.support.killed_in_bucket", bucket, changes)
        assert done.returncode == -signal.SIGKILL, done.stderr
        for path in (bucket / "run").rglob("*.json*"):
            for line in (
                path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            ):
                json.loads(line)
    done = processes.run("tests.support.killed_in_bucket", bucket, 10_000)
    assert done.returncode == 0, done.stderr
    with fake_bucket.mounted(bucket):
        np.testing.assert_array_equal(
            trained("gs://bucket/run", 24), trained(tmp_path / "disk", 24)
        )
        steps = checkpoints.Checkpoints(tmp_path / "disk").steps()
        assert checkpoints.Checkpoints("gs://bucket/run").steps() == steps
    assert metrics(bucket / "run") == metrics(tmp_path / "disk")
    assert runs.tensorboard(bucket / "run") == runs.logged(tmp_path / "disk")
    left = {path.name for path in (bucket / "run" / "checkpoints").iterdir()}
    assert left == {str(step) for step in steps}


def test_a_locked_bucket_is_refused_while_its_holder_lives_and_taken_when_it_has_died(bucket):
    path = as_path("gs://bucket/run") / LOCK
    with locks.locked(path, "MODEL_DIR", "Another run is training") as lock:
        with pytest.raises(InputError, match=r"Another run is training \(process \d+ on .*Wait"):
            locks.Lock(path, "MODEL_DIR", "Another run is training")
        lock.check()
    # A holder that was killed lets its name stand.
    (bucket / "run" / LOCK).write_text(json.dumps({"host": "h", "process": 1, "id": "x"}))
    began = time.monotonic()
    with locks.locked(path, "MODEL_DIR", "Another run is training") as lock:
        assert time.monotonic() - began > locks.EXPIRY_SECONDS
        # And one that was taken for dead finds another's name.
        deadline = time.monotonic() + 60
        with pytest.raises(InputError, match="has been taken by another process"):
            while time.monotonic() < deadline:
                # Anew, since a heartbeat may have been about to write.
                (bucket / "run" / LOCK).write_text(json.dumps({"host": "h", "process": 1}))
                time.sleep(locks.HEARTBEAT_SECONDS)
                lock.check()
    assert (bucket / "run" / LOCK).exists()


def test_a_heartbeat_that_fails_once_does_not_lose_the_bucket(bucket, monkeypatch):
    write, written = locks.write_text, []

    def unavailable_at_first(path, text):
        written.append(text)
        if len(written) == 1:
            raise OSError("503 Service Unavailable")
        write(path, text)

    with locks.locked(as_path("gs://bucket/run") / LOCK, "MODEL_DIR", "Another run") as lock:
        monkeypatch.setattr(locks, "write_text", unavailable_at_first)
        deadline = time.monotonic() + 60
        while len(written) < 3 and time.monotonic() < deadline:
            lock.check()
            time.sleep(0.05)
        assert len(written) >= 3
    assert not (bucket / "run" / LOCK).exists()


def test_two_that_come_at_once_do_not_both_get_a_bucket(bucket, monkeypatch):
    settle = time.sleep
    other = json.dumps({"host": "h", "process": 1, "id": "x"})

    def meanwhile(seconds):
        if seconds == locks.SETTLE_SECONDS:
            (bucket / "run" / LOCK).write_text(other)
        settle(seconds)

    monkeypatch.setattr(locks.time, "sleep", meanwhile)
    with pytest.raises(InputError, match=r"process 1 on h"):
        locks.Lock(as_path("gs://bucket/run") / LOCK, "MODEL_DIR", "Another run is training")
    assert (bucket / "run" / LOCK).read_text() == other
