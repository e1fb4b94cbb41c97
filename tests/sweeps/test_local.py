"""Points in processes of this machine, where the whole sweep is not what matters."""

import dataclasses
import json
import subprocess
import sys

from dpt_jax.sweeps import Sweep, local
from dpt_jax.sweeps.folder import SweepFolder
from dpt_jax.sweeps.worker import Outcome


def test_a_sweep_that_is_stopped_while_a_process_starts_stops_that_one_too(tmp_path, monkeypatch):
    sweep = Sweep("one", grid={"RANDOM_SEED": [0]})
    points = sweep.expand()
    launcher = local.Local(SweepFolder(tmp_path, sweep, points), (), jobs=1)
    start = subprocess.Popen
    done = json.dumps(dataclasses.asdict(Outcome(points[0].name, "done")))
    answering = f"import sys; sys.stdin.readline(); print({done!r}, flush=True); print(flush=True)"

    def popen(command, **arguments):
        process = start([sys.executable, "-c", answering], **arguments)
        launcher.stop()  # It has seen no process yet.
        return process

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    outcomes = []
    launcher([points], outcomes.append)
    assert [(one.point, one.status) for one in outcomes] == [(points[0].name, "stopped")]
