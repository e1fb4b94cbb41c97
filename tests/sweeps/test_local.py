"""Points in processes of this machine, where the whole sweep is not what matters."""

import dataclasses
import json
import subprocess
import sys

from dpt_jax.sweeps import Sweep, local
from dpt_jax.sweeps.folder import SweepFolder
from dpt_jax.sweeps.worker import Outcome


def answering(outcome):
    """A program that answers a job with one outcome, and says no more."""
    line = json.dumps(dataclasses.asdict(outcome))
    return [
        sys.executable,
        "-c",
        f"import sys; sys.stdin.readline(); print({line!r}, flush=True)",
    ]


def test_a_process_that_dies_after_its_last_point_takes_nothing_with_it(tmp_path, monkeypatch):
    sweep = Sweep("one", grid={"RANDOM_SEED": [0, 1]})
    points = sweep.expand()
    launcher = local.Local(SweepFolder(tmp_path, sweep, points), (), jobs=1)
    start, done = subprocess.Popen, [Outcome(point.name, "done") for point in points]
    programs = map(answering, done)
    monkeypatch.setattr(
        local.subprocess, "Popen", lambda _, **arguments: start(next(programs), **arguments)
    )
    outcomes = []
    launcher([[point] for point in points], outcomes.append)
    assert outcomes == done


def test_a_sweep_that_is_stopped_while_a_process_starts_stops_that_one_too(tmp_path, monkeypatch):
    sweep = Sweep("one", grid={"RANDOM_SEED": [0]})
    points = sweep.expand()
    launcher = local.Local(SweepFolder(tmp_path, sweep, points), (), jobs=1)
    start = subprocess.Popen

    def popen(command, **arguments):
        process = start(answering(Outcome(points[0].name, "done")), **arguments)
        launcher.stop()  # It has seen no process yet.
        return process

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    outcomes = []
    launcher([points], outcomes.append)
    assert [(one.point, one.status) for one in outcomes] == [(points[0].name, "stopped")]
