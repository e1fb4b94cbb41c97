"""What a process that trains points makes of their descriptions."""

import json
import os

import optax
import pytest

from dpt_jax.sweeps import worker
from tests.support import runs


@pytest.fixture
def points(tmp_path):
    """Two points that differ in seed, rate and bottleneck."""
    (tmp_path / "tiny.gin").write_text(runs.GIN)

    def point(seed, rate, bottleneck):
        bindings = {
            "INITIAL_CHECKPOINT_PATH": None,
            "MIXTURE_OR_TASK_NAME": "toy_x",
            "MIXTURE_OR_TASK_MODULE": "tests.support.toy_tasks",
            "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 6},
            "PROMPT_LENGTH": runs.PROMPT_LENGTH,
            "NUM_BUCKETS": 1,
            "TRAIN_STEPS": 3,
            "EVAL_PERIOD": 3,
            "RANDOM_SEED": seed,
            "LEARNING_RATE_PEAK": rate,
            "BOTTLENECK": bottleneck,
        }
        return {
            "name": f"{seed}",
            "gin_files": ["runs/prompt_train.gin", "tiny.gin", "prompts/decomposed.gin"],
            "bindings": [f"{name} = {value!r}" for name, value in bindings.items()],
            "model_dir": str(tmp_path / str(seed)),
            "log": str(tmp_path / f"{seed}.log"),
        }

    return [point(0, 0.5, 2), point(1, 0.25, 3)]


def test_each_configuration_keeps_its_own_schedule_and_optimizer(points, tmp_path):
    configs, texts = worker.own_configs(points, [str(tmp_path)])
    assert [config.random_seed for config in configs] == [0, 1]
    assert [config.prompt.bottleneck for config in configs] == [2, 3]
    # Asked for out of order, after the other's bindings were parsed.
    rates = [float(configs[i].learning_rate(10)(0)) for i in (0, 1, 0)]
    assert rates == [0.5, 0.25, 0.5]
    for config, text, rate in zip(configs, texts, (0.5, 0.25), strict=True):
        assert f"LEARNING_RATE_PEAK = {rate}" in text and "optax.adamw" in text
        optimizer = config.optimizer(optax.constant_schedule(rate))
        assert isinstance(optimizer, optax.GradientTransformation)


def test_what_a_point_prints_goes_to_its_log(tmp_path, capfd):
    log = tmp_path / "logs" / "point.log"
    for text in (b"first\n", b"second\n"):
        with worker._output_to(str(log)):
            os.write(1, text)
            os.write(2, b"as a library\n")
    os.write(1, b"outside\n")
    assert capfd.readouterr() == ("outside\n", "")
    assert log.read_text() == "first\nas a library\nsecond\nas a library\n"


@pytest.mark.slow
def test_a_point_that_diverges_fails_and_those_trained_with_it_do_not(points, tmp_path, capfd):
    # One backbone, and a rate of which a prompt's products overflow.
    for point, rate in zip(points, (1e30, 0.25), strict=True):
        point["bindings"] += ["RANDOM_SEED = 0", f"LEARNING_RATE_PEAK = {rate}"]
    job = {"points": points, "search_paths": [str(tmp_path)], "members_at_once": 1}
    diverged, done = worker.train_points(job)
    assert (diverged.status, done.status) == ("failed", "done")
    assert "is nan at step 2, learning rate 1e+30" in diverged.error
    assert diverged.together == done.together == 2
    assert json.loads((tmp_path / "1" / "summary.json").read_text())["last_step"] == 3
    # Pytest has Python's own streams; in a process of a sweep these lines are in the logs.
    out, err = capfd.readouterr()
    assert "Trains together with 0" in out
    assert "2 runs train together: 1 at a time" in err and "The others go on." in err


@pytest.mark.slow
def test_points_that_cannot_be_trained_together_are_trained_alone(points, tmp_path, capfd):
    job = {"points": points, "search_paths": [str(tmp_path)], "members_at_once": None}
    outcomes = list(worker.train_points(job))
    assert [(end.status, end.together) for end in outcomes] == [("done", 1)] * 2
    err = capfd.readouterr().err
    assert "cannot be trained together: their random backbones differ" in err
    assert "Each of the 2 points goes on alone." in err
