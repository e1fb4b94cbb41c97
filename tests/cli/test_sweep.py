"""dpt sweep end to end on toy runs: results, failures, resuming, launchers and bad input."""

import csv
import importlib.util
import json
import os
import pathlib
import re
import shlex
import signal
import sys
import time

import numpy as np
import pytest

from dpt_jax.cli import sweep
from dpt_jax.cli.main import main
from dpt_jax.sweeps import local, on_ray, worker
from tests.support import processes, runs, toy_sweeps

ROOT = pathlib.Path(__file__).parents[2]
REPORT = {"scale": 100, "figures": {"curves": {}, "spectra": {}}}


def results(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return {row["point"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def swept(backbone, tmp_path_factory):
    """A sweep of which one point kills its process and one names no task; and how it ended."""
    folder = tmp_path_factory.mktemp("sweeps")
    file = toy_sweeps.write(
        folder / "toy.gin",
        backbone,
        REPORT,
        bindings={"MIXTURE_OR_TASK_NAME": "{task}", "RANDOM_SEED": "{seed}"},
        points=[{"task": "toy_killing", "seed": 0}]
        + [{"task": "toy_x", "seed": seed} for seed in (0, 1)]
        + [{"task": "toy_gone", "seed": 0}],
        grid={"BOTTLENECK": [2, 3]},
        folder="{task}-{BOTTLENECK}-{seed}",
    )
    argv = ["sweep", f"--gin_file={file}", f"--output={folder}", "--jobs=2"]
    # Three of the failing points are enough.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "subprocess", processes.ForkedWorkers)
        assert main([*argv, "--only=task=toy_x,toy_gone", "--only=BOTTLENECK=2"]) == 1
        assert main([*argv, "--only=task=toy_killing,toy_x", "--only=BOTTLENECK=3"]) == 1
    return folder, argv


@pytest.mark.slow
def test_a_failing_point_leaves_the_others_alone(swept):
    found = results(swept[0] / "toy")
    status = {name: row["status"] for name, row in found.items()}
    assert status == {
        "toy_killing-2-0": "not run",
        "toy_killing-3-0": "failed",
        "toy_x-2-0": "done",
        "toy_x-3-0": "done",
        "toy_x-2-1": "done",
        "toy_x-3-1": "done",
        "toy_gone-2-0": "failed",
        "toy_gone-3-0": "not run",
    }
    assert "no task or mixture 'toy_gone'" in found["toy_gone-2-0"]["error"]
    for part in ("killed (SIGKILL)", "memory", "--gin.BATCH_SIZE", "--gin.MICROBATCHES", "--jobs"):
        assert part in found["toy_killing-3-0"]["error"]


@pytest.mark.slow
def test_a_result_is_what_the_run_folder_says(swept):
    row = results(swept[0] / "toy")["toy_x-3-1"]
    run = swept[0] / "toy" / "points" / "toy_x-3-1"
    summary = json.loads((run / "summary.json").read_text())
    assert row["value"] == summary["best_value"] == summary["metrics"]["toy_x"]["accuracy"]
    assert row["trainable_parameters"] == 3 * (runs.PROMPT_LENGTH + runs.WIDTH)
    assert row["axes"] == {"task": "toy_x", "seed": 1, "BOTTLENECK": 3}
    evaluated = [line for line in runs.metrics(run) if line["split"] == "validation"]
    assert row["curves"]["score"] == [
        [line["step"] for line in evaluated],
        [line["accuracy"] for line in evaluated],
    ]
    prompt = runs.prompt(run, summary["best_step"])
    np.testing.assert_allclose(
        row["singular_values"], np.linalg.svd(prompt, compute_uv=False), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_run_of_dpt_train(swept, backbone, tmp_path):
    bindings = {"BOTTLENECK": 3, "RANDOM_SEED": 1, "TRAIN_STEPS": 4, "EVAL_PERIOD": 2}
    assert main(runs.arguments(tmp_path / "run", backbone, NUM_BUCKETS=1, **bindings)) == 0
    point = swept[0] / "toy" / "points" / "toy_x-3-1"
    # Up to rounding: the point was trained together with another.
    np.testing.assert_allclose(
        runs.prompt(tmp_path / "run", 4), runs.prompt(point, 4), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_tables_and_figures_are_written(swept):
    folder = swept[0] / "toy"
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[4]["point"] == "toy_x-2-1" and rows[4]["seed"] == "1"
    assert float(rows[4]["toy_x/accuracy"]) == float(rows[4]["value"])
    table = (folder / "table.md").read_text()
    assert "| BOTTLENECK | parameters | toy_killing | toy_x | toy_gone | Avg. |" in table
    assert "toy_killing-3-0 failed: The process was killed (SIGKILL)" in table
    assert (folder / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figures" / "spectra.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_points_that_differ_in_their_seed_train_together(swept):
    logs = swept[0] / "toy" / "logs"
    assert "2 runs train together: " in (logs / "toy_x-2-0.log").read_text()
    assert "Trains together with toy_x-2-0" in (logs / "toy_x-2-1.log").read_text()


@pytest.mark.slow
def test_finished_points_are_not_run_again(swept, capfd):
    folder, argv = swept
    before = runs.contents(folder / "toy" / "points")
    capfd.readouterr()
    assert main([*argv, "--only=task=toy_x"]) == 0
    out, err = capfd.readouterr()
    assert "4 points, 4 of them done before" in err
    assert runs.contents(folder / "toy" / "points") == before
    assert "toy_x" in out and "results.jsonl" in out


@pytest.mark.slow
def test_printed_commands_run_the_points_that_are_left(backbone, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = toy_sweeps.write(tmp_path / "few.gin", backbone, grid={"RANDOM_SEED": [0, 1]})
    argv = ["sweep", f"--gin_file={file}", f"--output={tmp_path}", "--launcher=commands"]
    assert main(argv) == 0
    out, err = capfd.readouterr()
    assert "2 of 2 points are left to run" in err
    first, second = map(shlex.split, out.splitlines())
    assert first[:2] == second[:2] == ["dpt", "train"]
    assert "--gin.RANDOM_SEED=1" in second
    assert main(second[1:]) == 0
    capfd.readouterr()
    assert main(argv) == 0
    assert [shlex.split(line) for line in capfd.readouterr().out.splitlines()] == [first]
    status = [row["status"] for row in results(tmp_path / "few").values()]
    assert status == ["not run", "done"]


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_where_its_points_saved(backbone, tmp_path, monkeypatch):
    file = toy_sweeps.write(
        tmp_path / "long.gin",
        backbone,
        bindings={
            "TRAIN_STEPS": 600,
            "EVAL_PERIOD": 300,
            "config.RunConfig.checkpoint_period": 20,
        },
        grid={"RANDOM_SEED": [0]},
    )
    argv = ["sweep", f"--gin_file={file}", f"--output={tmp_path}"]
    folder = tmp_path / "long"
    run = folder / "points" / "RANDOM_SEED=0"
    process = processes.start(argv)
    deadline = time.monotonic() + 240
    while not (run / "summary.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The point that was running notices, saves and ends; until then the folder is locked.
    while main([*argv, "--launcher=commands"]) == 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    saved = json.loads((run / "summary.json").read_text())["last_step"]
    assert 0 < saved < 600
    monkeypatch.setattr(local, "subprocess", processes.ForkedWorkers)
    assert main(argv) == 0
    row = results(folder)["RANDOM_SEED=0"]
    assert (row["status"], row["last_step"]) == ("done", 600)
    log = (folder / "logs" / "RANDOM_SEED=0.log").read_text()
    assert f"continuing from step {saved}" in log


@pytest.mark.parametrize(
    ("launcher", "told"),
    [
        (local.Local, "the running points save before they stop."),
        (on_ray.Ray, "the running points end, and go on from their last checkpoints."),
    ],
)
def test_a_signal_tells_what_becomes_of_the_points_that_run(monkeypatch, capsys, launcher, told):
    stopped = []
    monkeypatch.setattr(launcher, "stop", lambda self: stopped.append(self))
    with sweep._signals(made := object.__new__(launcher)) as received:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped[0] is made and received == [signal.SIGTERM]
    assert capsys.readouterr().err == f"SIGTERM: {told}\n"


@pytest.mark.slow
def test_a_signal_lets_the_points_save_and_ends_the_sweep(backbone, tmp_path):
    file = toy_sweeps.write(
        tmp_path / "long.gin",
        backbone,
        bindings={"TRAIN_STEPS": 4000, "EVAL_PERIOD": 1000},
        grid={"RANDOM_SEED": [0, 1]},
    )
    argv = ["sweep", f"--gin_file={file}", f"--output={tmp_path}"]
    process = processes.start(argv)
    log = tmp_path / "long" / "points" / "RANDOM_SEED=0" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "run the same command to continue" in err
    status = {name: row["status"] for name, row in results(tmp_path / "long").items()}
    assert status == {"RANDOM_SEED=0": "unfinished", "RANDOM_SEED=1": "unfinished"}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"
)
def test_ray_runs_points_with_the_resources_they_need(backbone, tmp_path, capfd, monkeypatch):
    import ray

    file = toy_sweeps.write(
        tmp_path / "few.gin",
        backbone,
        points=[
            {"MIXTURE_OR_TASK_NAME": "toy_x", "RANDOM_SEED": 0},
            {"MIXTURE_OR_TASK_NAME": "toy_killing", "RANDOM_SEED": 0},
        ],
    )
    argv = ["sweep", f"--gin_file={file}", f"--output={tmp_path}", "--launcher=ray"]
    # Ray's processes are not to wait for what else the machine does.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init(num_cpus=2, resources={"TPU": 4}, include_dashboard=False, log_to_driver=False)
    try:
        assert main([*argv, "--resources=TPU=8,CPU=1"]) == 2
        assert "needs TPU=8" in capfd.readouterr().err
        assert main([*argv, "--resources=TPU=4,CPU=1"]) == 1
    finally:
        ray.shutdown()
    done, killed = results(tmp_path / "few").values()
    assert (done["status"], done["last_step"]) == ("done", 4)
    assert killed["status"] == "failed" and "memory" in killed["error"]


def test_memory_that_runs_out_inside_a_point_is_told_with_what_to_lower():
    def too_much():
        np.ones((1 << 50,))

    error = worker._guarded(too_much)
    assert error.startswith("Out of memory") and "--gin.MICROBATCHES" in error

    def too_much_for_a_device():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")

    assert "--gin.BATCH_SIZE" in worker._guarded(too_much_for_a_device)
    assert worker._guarded(lambda: None) is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a system without affinities")
def test_side_by_side_processes_share_the_cores():
    mine = sorted(os.sched_getaffinity(0))
    assert local._cores(0, 1) is None
    if len(mine) > 1:
        assert sorted(local._cores(0, 2) + local._cores(1, 2)) == mine
    assert all(
        local._cores(i, 10 * len(mine)) is None or len(local._cores(i, 10 * len(mine))) == 1
        for i in range(5)
    )


@pytest.fixture
def refused(backbone, tmp_path, capfd):
    """Runs a sweep that must be refused; returns the message."""

    def run(*arguments, **sweep):
        file = toy_sweeps.write(tmp_path / "odd.gin", backbone, **sweep)
        capfd.readouterr()
        assert main(["sweep", f"--gin_file={file}", f"--output={tmp_path}/out", *arguments]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.startswith("dpt sweep: error: ") and "Traceback" not in err
        assert not (tmp_path / "out").exists()
        return err

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"BOTLENECK": [2, 3]}, "gin macro BOTLENECK is set, but nothing uses it"),
        ({"optax.adamww.weight_decay": [0.1]}, "No configurable matching 'optax.adamww'"),
        ({"RunConfig.num_bukets": [1]}, "doesn't have a parameter named 'num_bukets'"),
        ({"CLASS_LABELS": [("a",), ("b",)]}, "axis CLASS_LABELS, but nothing in its gin files"),
        ({"BOTTLENECK": [2, 0]}, "BOTTLENECK is 0"),
    ],
)
def test_an_axis_that_is_no_binding_is_refused(refused, grid, message):
    assert message in refused(grid=grid)


def test_two_points_with_one_folder_are_refused(refused):
    err = refused(grid={"BOTTLENECK": [2, 3]}, folder="run")
    assert "same folder run: BOTTLENECK = 2 and BOTTLENECK = 3" in err


def test_points_that_were_stopped_alone_are_left_and_it_is_said(
    backbone, tmp_path, capfd, monkeypatch
):
    def stopped(self, jobs, report):
        report(worker.Outcome(jobs[0][0].name, "stopped"))

    monkeypatch.setattr(local.Local, "__call__", stopped)
    file = toy_sweeps.write(tmp_path / "toy.gin", backbone, grid={"BOTTLENECK": [2, 3]})
    assert main(["sweep", f"--gin_file={file}", f"--output={tmp_path}/out"]) == 1
    assert "2 points were stopped; run the same command to continue" in capfd.readouterr().err


def test_a_launcher_that_is_unknown_or_not_installed_is_refused(refused, monkeypatch):
    grid = {"BOTTLENECK": [2, 3]}
    assert "--launcher is 'slurm'; it takes local, ray" in refused("--launcher=slurm", grid=grid)
    monkeypatch.setitem(sys.modules, "ray", None)
    err = refused("--launcher=ray", grid=grid)
    assert "not installed: pip install 'dpt-jax[ray]'" in err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--jobs=0", "--jobs is 0"),
        ("--resources=TPU", "--resources is 'TPU'"),
        ("--resources=TPU=4", "--resources is for --launcher=ray"),
        ("--only=BOTTLENECK=9", "the sweep has BOTTLENECK = 2, 3"),
        ("--gin.BOTTLENECK=5", "--gin.BOTTLENECK is an axis"),
        ("--gin.BATCH_SIZ=5", "BATCH_SIZ"),
        ("--gin.Sweep.grd={}", "grd"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused(refused, argument, message):
    assert message in refused(argument, grid={"BOTTLENECK": [2, 3]})


def test_claims_and_figures_are_checked_before_anything_runs(refused):
    grid = {"BOTTLENECK": [2, 3]}
    assert "no figure 'score_'" in refused(grid=grid, report={"figures": {"score_": {}}})
    claims = [{"text": "t", "falls": "x", "where": {"b": 1}}]
    assert "b, which is no axis" in refused(grid=grid, report={"claims": claims})


def test_no_sweep_and_files_that_are_none(capsys, backbone):
    assert main(["sweep"]) == 2
    assert "demo_bottleneck" in capsys.readouterr().err
    assert main(["sweep", "demo_botleneck"]) == 2
    assert "Nearest: demo_bottleneck" in capsys.readouterr().err
    assert main(["sweep", f"--gin_file={backbone.parent / 'tiny.gin'}"]) == 2
    assert "sets no sweeps.Sweep.name" in capsys.readouterr().err


def test_a_folder_of_another_sweep_is_left_alone(backbone, tmp_path, capsys):
    def prepare(name="one", steps=4, bottlenecks=(2, 3)):
        toy_sweeps.write(
            tmp_path / "s.gin",
            backbone,
            name=name,
            bindings={"TRAIN_STEPS": steps},
            grid={"BOTTLENECK": list(bottlenecks)},
        )
        argv = [f"--gin_file={tmp_path / 's.gin'}", f"--output={tmp_path / 'out'}"]
        status = main(["sweep", *argv, "--launcher=commands"])
        return status, capsys.readouterr().err

    assert prepare()[0] == 0
    folder = tmp_path / "out" / "one"
    before = runs.contents(folder)
    status, err = prepare(steps=5)
    assert status == 2 and "TRAIN_STEPS: saved 4, now 5" in err
    status, err = prepare(bottlenecks=(3, 4))
    assert status == 2 and "has results of the point BOTTLENECK=2, which this sweep" in err
    assert runs.contents(folder) == before
    assert prepare(bottlenecks=(2, 3, 4))[0] == 0  # More of the same sweep is not another.
    lines = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(lines.replace('"one"', '"two"'))
    status, err = prepare(bottlenecks=(2, 3, 4))
    assert status == 2 and "results file of another sweep" in err
    other = tmp_path / "out" / "two"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    status, err = prepare(name="two")
    assert status == 2 and "is no sweep's folder" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (ROOT / "gin_configs" / "sweeps").glob("*.gin"))
)
def test_every_sweep_of_the_package_can_be_run(name, tmp_path, capsys):
    bindings = []
    text = (ROOT / "gin_configs" / "sweeps" / f"{name}.gin").read_text()
    if "@sweeps.chosen_points()\n" in text:
        # Its learning rates are those that the other found.
        other = f"{name}_rates"
        rates = tmp_path / other / "results.jsonl"
        assert main(["sweep", other, "--launcher=commands", f"--output={tmp_path}"]) == 0
        rates.write_text(
            rates.read_text()
            .replace('"status": "not run"', '"status": "done"')
            .replace('"value": null', '"value": 1.0')
        )
        bindings = [f"--gin.RATES_FOLDER='{rates.parent}'"]
        capsys.readouterr()
    assert main(["sweep", name, "--launcher=commands", f"--output={tmp_path}", *bindings]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert commands and all(line.startswith("dpt train --gin_file=") for line in commands)
    points = json.loads((tmp_path / name / "sweep.json").read_text())["points"]
    assert len(points) == len(commands)
    if name.startswith("demo_sharing") and "images" not in name:
        # Prefixes by rates of their own: no recipe of prompts, and no prompt beside them.
        for line in commands:
            run, *others = re.findall(r"--gin_file=(\S+)", line)
            assert run == "runs/demo.gin" and all(f.startswith("prefixes/") for f in others)
