"""Every command on a run that is in a bucket says what it says of the same run on a disk."""

import json
import os

import numpy as np
import pytest

from dpt_jax import locks
from dpt_jax.analysis.results import read_results, read_run
from dpt_jax.cli.main import main
from dpt_jax.interop import load_factors, load_prompt
from dpt_jax.sweeps import Sweep, jobs, worker
from dpt_jax.sweeps.folder import SweepFolder
from tests.support import fake_bucket, runs
from tests.support.killed_in_bucket import quick_locks

MACROS = {"TRAIN_STEPS": 2, "EVAL_PERIOD": 1, "NUM_BUCKETS": 1}


@pytest.fixture(scope="module")
def places(backbone, tmp_path_factory):
    """One run, in a bucket and on a disk: how each is called, and the bucket's folder."""
    folder = tmp_path_factory.mktemp("buckets")
    bucket, disk = folder / "bucket", folder / "run"
    with pytest.MonkeyPatch.context() as patch, fake_bucket.mounted(bucket):
        for name in ("HEARTBEAT_SECONDS", "EXPIRY_SECONDS", "SETTLE_SECONDS"):
            patch.setattr(locks, name, getattr(locks, name))
        quick_locks()
        patch.chdir(folder)
        for place in ("gs://bucket/run", disk):
            assert main(runs.arguments(place, backbone, **MACROS)) == 0
        yield "gs://bucket/run", disk, bucket
        assert {path.name for path in folder.iterdir()} == {"bucket", "run"}


@pytest.fixture
def said(places, capsys):
    """What a command says of the run in the bucket, which is what it says of the other."""

    def call(command, *flags):
        texts = []
        for place in places[:2]:
            capsys.readouterr()
            argv = [flag.replace("RUN", str(place)) for flag in (command, *flags)]
            status = main(argv)
            captured = capsys.readouterr()
            assert status == 0, captured.err
            texts.append(captured.out.replace(str(place), "RUN"))
        assert texts[0] == texts[1]
        return texts[0]

    return call


@pytest.mark.slow
def test_what_a_run_leaves_in_a_bucket_is_read_there(places, said, tmp_path):
    remote, disk, bucket = places
    evaluated = json.loads(said("evaluate", "--model_dir=RUN", "--predictions=RUN/again"))
    best = evaluated["prompt"]
    written = (bucket / "run" / "again" / f"toy_x_{best}.jsonl").read_bytes()
    assert written == (disk / "predictions" / f"toy_x_{best}.jsonl").read_bytes()

    (tmp_path / "lines").write_text("a b\nb a\n")
    assert said("predict", "--model_dir=RUN", f"--input={tmp_path / 'lines'}").count("\n") == 2
    named = f"--prompt=mine=RUN/numpy_checkpoints/checkpoint_{best}/prompt.npy"
    assert (
        said("predict", "--model_dir=RUN", named, f"--input={tmp_path / 'lines'}").count("\n") == 2
    )
    assert "a run of dpt train" in said("inspect", "RUN")
    assert "a soft prompt" in said("inspect", f"RUN/numpy_checkpoints/checkpoint_{best}/prompt.npy")
    said("rank", "RUN", "--no_score", "--output=RUN/rank")
    assert {"rank.json", "spectrum.png"} <= {p.name for p in (bucket / "run" / "rank").iterdir()}
    said("report", "RUN", "--output=RUN/report.html")
    assert "toy_x" in (bucket / "run" / "report.html").read_text()
    np.testing.assert_array_equal(load_prompt(remote), load_prompt(disk))
    assert load_factors(remote).keys() == load_factors(disk).keys() == {"A", "B"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one.npy", "one.safetensors", "folder", "adapter"])
def test_a_prompt_is_exported_into_a_bucket_and_again(places, said, name):
    flags = ["--format=peft"] if name == "adapter" else []
    for step in ("1", "2"):
        said("export", "--model_dir=RUN", f"--step={step}", f"--output=RUN/{name}", *flags)
        expected = runs.prompt(places[1], int(step))
        np.testing.assert_array_equal(load_prompt(f"{places[0]}/{name}"), expected)
    if name == "folder":
        (places[2] / "run" / name / "notes.txt").write_text("mine")
        flags = [f"--prompt={places[0]}", f"--output={places[0]}/{name}"]
        assert main(["export", *flags]) == 2


@pytest.mark.slow
def test_a_sweep_in_a_bucket_has_the_results_of_its_runs(places, backbone):
    remote, disk, bucket = places
    files = ("runs/prompt_train.gin", str(backbone.parent / "tiny.gin"), "prompts/decomposed.gin")
    bindings = [
        flag.removeprefix("--gin.").replace("=", " = ", 1)
        for flag in runs.arguments("x", backbone, **MACROS)
        if flag.startswith("--gin.") and "MODEL_DIR" not in flag
    ]
    sweep = Sweep("small", gin_files=files, grid={"RANDOM_SEED": [0]})
    points = sweep.expand(bindings)
    folder = SweepFolder(f"{remote}/small", sweep, points)
    folder.open()
    job = jobs.job_of(points, folder, [], None)
    assert [end.status for end in worker.train_points(job)] == ["done"]
    [row] = folder.write()
    folder.close()
    expected = read_run(disk) | {"train_seconds": row["train_seconds"]}
    assert {name: row[name] for name in expected} == expected
    assert folder.log(points[0]).exists()
    assert json.loads((bucket / "run" / "small" / "results.jsonl").read_text()) == row
    assert read_results(folder.path) == [row]


def test_a_points_log_in_a_bucket_goes_on_where_the_last_attempt_ended(tmp_path):
    with fake_bucket.mounted(tmp_path):
        for text in (b"first\n", b"second\n"):
            with worker.growing_log("gs://bucket/logs/point.log") as file:
                file.write(text)
    assert (tmp_path / "logs" / "point.log").read_bytes() == b"first\nsecond\n"


def test_a_points_log_in_a_bucket_has_what_the_point_prints(tmp_path):
    with fake_bucket.mounted(tmp_path):
        for text in (b"first\n", b"second\n"):
            with worker._output_to("gs://bucket/logs/point.log"):
                os.write(1, text)
                os.write(2, b"error: " + text)
    expected = b"first\nerror: first\nsecond\nerror: second\n"
    assert (tmp_path / "logs" / "point.log").read_bytes() == expected
