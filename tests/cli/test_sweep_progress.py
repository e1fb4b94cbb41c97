"""What dpt sweep says while points train."""

import json
import os
import shlex
import types

import pytest

from dpt_jax import progress
from dpt_jax.cli.main import main
from dpt_jax.cli.sweep_progress import SweepProgress
from dpt_jax.sweeps import Point, Report
from dpt_jax.sweeps.worker import Outcome

MINE = """
from __gin__ import dynamic_registration
from dpt_jax import sweeps
sweeps.Sweep:
  name = "mine"
  gin_files = ["runs/demo.gin", "prompts/decomposed.gin"]
  bindings = {"MIXTURE_OR_TASK_NAME": "demo_questions", "EPOCHS": 1}
  grid = {"BOTTLENECK": [2, 4]}
"""


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def made(tmp_path, *jobs, done=0):
    """The progress of a sweep with jobs of so many points, `p0` first; their logs in a folder."""
    points = [Point(f"p{i}", {}, (), ()) for i in range(sum(jobs))]
    folder = types.SimpleNamespace(
        sweep=types.SimpleNamespace(name="mine"),
        report=Report(scale=100),
        log=lambda point: tmp_path / f"{point.name}.log",
    )
    rest = iter(points)
    work = [[next(rest) for _ in range(size)] for size in jobs]
    return SweepProgress(folder, work, sum(jobs) + done)


def test_points_that_end_together_tell_the_time_that_is_left_when_all_have_ended(
    tmp_path, clock, capsys
):
    shown = made(tmp_path, 3, 1)
    clock[0] = 60.0
    for i in range(3):
        shown.ended(Outcome(f"p{i}", "done", 20.0, together=3), 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "[1/4] p0: 50.00, 20 s, one of 3 trained together",
        "[2/4] p1: 50.00, 20 s, one of 3 trained together",
        # Three in 60 s, so that one takes 20.
        "[3/4] p2: 50.00, 20 s, one of 3 trained together (0:20 left)",
    ]
    clock[0] = 90.0
    shown.ended(Outcome("p3", "failed", 30.0, "no memory"), None)
    assert capsys.readouterr().err == "[4/4] p3: failed: no memory (1 failed, 0:00 left)\n"
    assert shown.failures == 1


def test_an_error_that_several_points_share_is_told_once(tmp_path, clock, capsys):
    shown = made(tmp_path, 1, 1, 1)
    for point, error in (("p0", "no memory"), ("p1", "no task"), ("p2", "no memory")):
        shown.ended(Outcome(point, "failed", error=error), None)
    said = [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "[1/3] p0: failed: no memory",
        "[2/3] p1: failed: no task",
        "[3/3] p2: failed as p0 did",
    ]


def test_points_that_run_are_told_of_by_the_last_line_of_their_log(tmp_path, capsys):
    shown = made(tmp_path, 2, 1, 1)
    shown.running(5.0)
    assert capsys.readouterr().err == "mine 0:05  running\n"
    (tmp_path / "p0.log").write_text(
        "from the start\nstep 10/90  loss 1\nstep 20/90  loss 0.5\nx\n"
    )
    (tmp_path / "p1.log").write_text("Trains together with p0, whose log tells of all.\n")
    (tmp_path / "p2.log").write_text("step 5/90  loss 2\n")
    shown.running(65.0)
    assert capsys.readouterr().err == (
        "mine 1:05  p0 and 1 with it: step 20/90  loss 0.5; p2: step 5/90  loss 2\n"
    )
    shown.ended(Outcome("p2", "done", 1.0), 0.1)
    capsys.readouterr()
    shown.running(70.0)
    assert "p2" not in capsys.readouterr().err


def test_what_an_earlier_attempt_logged_is_not_told_whatever_a_files_time(tmp_path, capsys):
    earlier, written = tmp_path / "p0.log", tmp_path / "p1.log"
    for log in (earlier, written):
        log.write_text("step 80/90  loss 3\n")
    # A file server's clock may lie ahead of this machine's, or behind.
    os.utime(earlier, (4e9, 4e9))
    shown = made(tmp_path, 1, 1)
    written.write_text("step 5/90  loss 2\n")
    os.utime(written, (1e9, 1e9))
    shown.running(5.0)
    assert capsys.readouterr().err == "mine 0:05  p1: step 5/90  loss 2\n"


def test_a_new_attempt_that_has_taken_no_step_is_not_told_by_the_steps_of_an_earlier_one(
    tmp_path, capsys
):
    log = tmp_path / "p0.log"
    log.write_text("step 80/90  loss 3\nerror: out of memory\n")
    shown = made(tmp_path, 1)
    with open(log, "a") as file:
        file.write("run folder x\n")
    shown.running(5.0)
    with open(log, "a") as file:
        file.write("step 5/90  loss 2\n")
    shown.running(15.0)
    # One that was begun anew, and is shorter.
    log.write_text("step 6/90  loss 1\n")
    shown.running(25.0)
    assert capsys.readouterr().err.splitlines() == [
        "mine 0:05  running",
        "mine 0:15  p0: step 5/90  loss 2",
        "mine 0:25  p0: step 6/90  loss 1",
    ]


def test_points_that_go_on_alone_are_each_told_by_their_own_log(tmp_path, capsys):
    shown = made(tmp_path, 3)
    (tmp_path / "p0.log").write_text("Each of the 3 points goes on alone.\nstep 90/90  loss 1\n")
    for name in ("p1", "p2"):
        (tmp_path / f"{name}.log").write_text("Trains together with p0, whose log tells of all.\n")
    shown.ended(Outcome("p0", "done", 9.0), 0.5)
    capsys.readouterr()
    shown.running(10.0)
    with open(tmp_path / "p1.log", "a") as file:
        file.write("step 5/90  loss 2\n")
    shown.running(20.0)
    assert capsys.readouterr().err.splitlines() == [
        "mine 0:10  running",
        "mine 0:20  p1: step 5/90  loss 2",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["demo_bottleneck"], "dpt sweep demo_bottleneck"),
        (["mine.gin"], "dpt sweep --gin_file=mine.gin"),
        (["--gin_file=mine.gin"], "dpt sweep --gin_file=mine.gin"),
        (
            ["--gin_file=mine.gin", "--only", "BOTTLENECK=2", "--gin.TRAIN_STEPS=3"],
            "dpt sweep --gin_file=mine.gin --gin.TRAIN_STEPS=3",
        ),
        (
            ["demo_bottleneck", "--gin_file=more.gin", "--gin_search_paths=a,b"],
            "dpt sweep demo_bottleneck --gin_file=more.gin --gin_search_paths=a,b",
        ),
    ],
)
def test_the_command_that_a_report_prints_runs_as_it_is_printed(
    argv, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gin").write_text(MINE)
    (tmp_path / "more.gin").write_text("STEPS = 3\n")
    folder = "demo_bottleneck" if argv[0] == "demo_bottleneck" else "mine"
    assert main(["sweep", *argv, "--launcher=commands"]) == 0
    saved = tmp_path / "runs" / "sweeps" / folder / "sweep.json"
    first = json.loads(saved.read_text())
    assert first["command"] == command
    elsewhere = [*shlex.split(command)[1:], "--launcher=commands", "--output=there"]
    assert main(elsewhere) == 0
    again = json.loads((tmp_path / "there" / folder / "sweep.json").read_text())
    assert again["points"] == first["points"]
    assert set(shlex.split(again["command"])) == {*shlex.split(command), "--output=there"}
