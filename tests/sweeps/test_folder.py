"""The folder of a sweep belongs to one sweep at a time."""

import threading

import pytest

from dpt_jax import locks
from dpt_jax.errors import InputError
from dpt_jax.sweeps import Sweep
from dpt_jax.sweeps.folder import SweepFolder


def test_a_folder_is_one_sweeps_until_it_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.0)
    sweep = Sweep("small", grid={"BOTTLENECK": [2], "seed": [0]})
    first, second = (
        SweepFolder(tmp_path / "small", sweep, sweep.expand(), "dpt sweep small") for _ in range(2)
    )
    first.open()
    with pytest.raises(InputError, match="Another dpt sweep is running in .*small"):
        second.open()
    first.close()
    second.open()
    second.close()


def opened(path, **grid):
    sweep = Sweep("small", grid=grid)
    folder = SweepFolder(path, sweep, sweep.expand(), "dpt sweep small")
    folder.open()
    return folder


def test_a_sweep_that_came_to_nothing_does_not_block_its_correction(tmp_path):
    wrong = opened(tmp_path, BOTTLENECK=[2, "x"])
    for point in wrong.points:
        wrong.fail(point, "Nothing of this name.")
        (wrong.run_folder(point)).mkdir(parents=True)
        (wrong.run_folder(point) / "run.json").write_text("{}")
    wrong.write()
    wrong.close()
    right = opened(tmp_path, BOTTLENECK=[2, 4])
    assert [row["status"] for row in right.write()] == ["failed", "not run"]
    # One that has a result does.
    (right.run_folder(right.points[1]) / "checkpoints" / "8").mkdir(parents=True)
    right.close()
    with pytest.raises(InputError, match="has results of the point BOTTLENECK=4"):
        opened(tmp_path, BOTTLENECK=[2, 3])


def test_the_next_sweep_waits_for_a_killed_ones_points(tmp_path):
    first = opened(tmp_path, BOTTLENECK=[2])
    threading.Timer(0.5, first.close).start()
    opened(tmp_path, BOTTLENECK=[2]).close()
