"""A run's folder holds one run, and is one run's at a time."""

import dataclasses
import json
import shutil
import sys
import threading

import numpy as np
import optax
import pytest

from dpt_jax import gin_utils, locks
from dpt_jax.analysis.results import read_run
from dpt_jax.errors import InputError
from dpt_jax.run_files import read_summary
from dpt_jax.training import run_folder, trainer
from dpt_jax.training.checkpoints import Checkpoints
from dpt_jax.training.config import RunConfig
from dpt_jax.training.run import Run
from tests.support import runs
from tests.training.test_problem import config, evaluate, metrics, problem, trained

FILES = ["runs/prompt_train.gin", "models/t5_1_0_small.gin", "recipes/paper.gin"]


def train(folder, *bindings, files=FILES, **changes):
    """Trains the linear problem by the optimizer, schedule and clipping that gin binds."""
    names = ("MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "MIXTURE_OR_TASK_NAME")
    gin_utils.parse(files, [*(f"{name} = 'x'" for name in names), *bindings])
    asked = gin_utils.build(RunConfig)
    names = ("optimizer", "learning_rate", "clip_norm", "eval_split")
    settings = {name: getattr(asked, name) for name in names}
    settings |= {"train_steps": 2, "eval_period": 2} | changes
    return trainer.train(config(folder, **settings), problem(), gin_utils.operative_config)


@pytest.mark.parametrize(
    ("bindings", "differences"),
    [
        (["LEARNING_RATE_PEAK = 0.01"], ["LEARNING_RATE_PEAK: saved 0.3, now 0.01"]),
        (["CLIP_NORM = 0.1"], ["CLIP_NORM: saved None, now 0.1"]),
        (["optax.adamw.b2 = 0.95"], ["optax.adamw.b2: saved 0.999, now 0.95"]),
        (["OPTIMIZER = @optax.lion"], ["OPTIMIZER: saved @optax.adamw, now @optax.lion"]),
        (
            ["LEARNING_RATE = @schedules.linear_warmup_linear_decay", "CLIP_NORM = 1"],
            [
                "LEARNING_RATE: saved @schedules.constant, now @schedules.linear_",
                "CLIP_NORM: saved",
            ],
        ),
        (
            ["initializers.gaussian.stddev = 0.5"],
            ["initializers.gaussian.stddev: saved 1.0, now 0.5"],
        ),
        (["config.RunConfig.eval_split = 'test'"], ["RunConfig.eval_split: saved 'validation'"]),
    ],
)
def test_another_recipe_is_refused_with_both_values(two_steps, bindings, differences):
    before = runs.contents(two_steps)
    # It is finished where two steps are asked for, and would go on where four are.
    for steps in (2, 4):
        with pytest.raises(InputError) as error:
            train(two_steps, *bindings, train_steps=steps)
        assert all(difference in str(error.value) for difference in differences), error.value
        assert "nothing was changed" in str(error.value)
    assert runs.contents(two_steps) == before


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    train(folder)
    return folder


def test_what_does_not_change_the_result_may_differ(tmp_path, capsys):
    train(tmp_path)
    # The same value by another way, how long, how often, and how much at a time.
    changes = {"train_steps": 4, "eval_period": 0, "log_period": 1, "microbatches": 2}
    summary = train(tmp_path, "schedules.constant.peak = 0.3", "BATCH_SIZE = 32", **changes)
    assert summary["last_step"] == 4
    assert "recipe" not in capsys.readouterr().err


def test_the_number_of_steps_goes_before_that_of_epochs_and_it_is_said(tmp_path, capsys):
    assert train(tmp_path, epochs=3)["last_step"] == 2
    assert "TRAIN_STEPS = 2 is taken, not EPOCHS = 3" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_keeps_no_recipe_goes_on_and_it_is_said_once(tmp_path, capsys):
    train(tmp_path)
    identity = json.loads((tmp_path / "run.json").read_text())
    old = {k: v for k, v in identity.items() if not k.startswith(("recipe.", "gin."))}
    assert old.keys() < identity.keys()
    (tmp_path / "run.json").write_text(json.dumps(old))
    capsys.readouterr()
    assert train(tmp_path, train_steps=3)["last_step"] == 3
    assert "does not say how it was trained" in capsys.readouterr().err
    assert train(tmp_path, train_steps=4)["last_step"] == 4
    assert "does not say" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text()) == identity


def test_a_run_that_was_stopped_is_finished_by_asking_for_fewer_steps(two_steps, tmp_path, capsys):
    shutil.copytree(two_steps, tmp_path / "run")
    # What a signal leaves of a run of four steps.
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"train_steps": 4}))
    assert train(tmp_path / "run")["train_steps"] == 2
    assert "is finished: step 2 of 2" in capsys.readouterr().err
    assert json.loads(summary.read_text()) == json.loads((two_steps / summary.name).read_text())


def test_a_run_that_is_killed_before_its_last_checkpoint_is_not_done(tmp_path, monkeypatch):
    def killed(self, state, progress):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", killed)
        train(tmp_path)
    assert read_run(tmp_path)["status"] == "unfinished"
    train(tmp_path)
    assert read_run(tmp_path)["status"] == "done"


def test_a_run_that_is_killed_before_its_summary_is_what_its_last_checkpoint_says(
    tmp_path, monkeypatch
):
    """And not what the summary of the shorter run says that it was before."""
    expected = train(tmp_path / "at_once", train_steps=4, eval_period=4)
    train(tmp_path / "run")

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "summary", killed)
        train(tmp_path / "run", train_steps=4, eval_period=4)
    assert read_summary(tmp_path / "run")["last_step"] == 2
    found = train(tmp_path / "run", train_steps=4, eval_period=4)
    assert found == read_summary(tmp_path / "run")
    times = {"train_seconds": 0}
    assert found | times == expected | times
    assert Checkpoints(tmp_path / "run").steps() == [4]


def test_a_run_without_gin_keeps_no_gin_file_of_one_that_came_to_nothing(tmp_path):
    (tmp_path / "config.gin").write_text("PROMPT_LENGTH = 3")
    trainer.train(config(tmp_path, train_steps=1), problem())
    assert not (tmp_path / "config.gin").exists()


def test_where_nothing_was_trained_another_run_begins(tmp_path, monkeypatch):
    def fails(self):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(trainer.Run, "loop", fails)
        first = dataclasses.replace(problem(), files={"few_shot.json": {"rows": [1]}})
        trainer.train(config(tmp_path, batch_size=16, random_seed=3), first)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n')
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "other_1.jsonl").write_text("{}\n")
    trainer.train(config(tmp_path, train_steps=4), problem())
    assert json.loads((tmp_path / "run.json").read_text())["data.random_seed"] == 0
    assert not (tmp_path / "few_shot.json").exists()
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["rows_4.jsonl"]
    assert [line["step"] for line in metrics(tmp_path)] == [4, 4]
    with pytest.raises(InputError, match="random_seed: saved 0, now 3"):
        trainer.train(config(tmp_path, train_steps=4, random_seed=3), problem())


@pytest.mark.parametrize("text", ["", '{"width": 4', "[]"])
def test_a_damaged_identity_is_named_with_what_to_do(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged.*Set --gin\.MODEL_DIR"):
        trainer.train(config(tmp_path), problem())


def test_the_summary_of_a_finished_run_is_made_again_where_it_is_damaged(tmp_path):
    expected = trainer.train(config(tmp_path, train_steps=2), problem())
    (tmp_path / "summary.json").write_text("")
    with pytest.raises(InputError, match=r"summary\.json is damaged.*run the training's command"):
        read_summary(tmp_path)
    assert trainer.train(config(tmp_path, train_steps=2), problem()) == expected
    assert read_summary(tmp_path) == expected


@pytest.mark.slow
def test_without_a_damaged_checkpoint_the_run_goes_on_from_an_earlier_one(tmp_path, monkeypatch):
    def first_is_best(params):
        found = evaluate(params)
        return dataclasses.replace(found, value=-found.value)

    def train():
        asked = dataclasses.replace(problem(), evaluate=first_is_best)
        trainer.train(config(tmp_path, train_steps=6, eval_period=2), asked)
        return trained(tmp_path, 6)

    expected = train()
    checkpoints = tmp_path / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["2", "6"]
    for file in (checkpoints / "6" / "state" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:10])
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    before = runs.contents(tmp_path)
    with pytest.raises(InputError, match="checkpoints/6 is damaged: .*--step"):
        trained(tmp_path, 6)
    with pytest.raises(InputError, match="6 is damaged: .*command then continues from step 2"):
        train()
    assert runs.contents(tmp_path) == before
    assert not heard  # Of the reads that another one's failure has cut off.
    (checkpoints / "6").rename(tmp_path / "away")
    np.testing.assert_array_equal(train(), expected)


def test_a_folder_is_one_runs_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.0)
    with run_folder.locked(tmp_path):
        with pytest.raises(
            InputError, match=r"Another run is training in MODEL_DIR = .*process \d"
        ):
            trainer.train(config(tmp_path, train_steps=2), problem())
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert trainer.train(config(tmp_path, train_steps=2), problem())["last_step"] == 2


@pytest.mark.parametrize("place", ["file/run", "/sys/kernel/run"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError,
        match=r"/run.* cannot be (written|read): .*MODEL_DIR|MODEL_DIR.*/run cannot be written",
    ):
        trainer.train(config(tmp_path / place), problem())


def test_the_next_run_waits_for_one_that_ends_soon_and_continues_it(tmp_path):
    with run_folder.locked(tmp_path) as lock:
        released = threading.Timer(0.5, lock.close)
        released.start()
        assert trainer.train(config(tmp_path, train_steps=2), problem())["last_step"] == 2


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    from orbax.checkpoint import Checkpointer

    trainer.train(config(tmp_path, train_steps=2), problem())
    before = trained(tmp_path, 2)

    def full(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: [Errno 28] No space left on device" + "." * 9000)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", full)
        with pytest.raises(InputError, match=r"checkpoints/4 cannot be written.*No space") as error:
            trainer.train(config(tmp_path, train_steps=4), problem())
    assert len(str(error.value)) < 600
    assert trained(tmp_path, 2).tobytes() == before.tobytes()
    assert trainer.train(config(tmp_path, train_steps=4), problem())["last_step"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random_seed": -1}, "RANDOM_SEED is -1; it must be an integer from 0"),
        ({"random_seed": 0.5}, "RANDOM_SEED is 0.5"),
        # jax.random.key would take it for 0.
        ({"random_seed": 2**32}, "RANDOM_SEED is 4294967296; it must be an integer from 0"),
        ({"clip_norm": "1.0"}, "CLIP_NORM is '1.0'; it must be a positive number, or None"),
        ({"clip_norm": float("nan")}, "CLIP_NORM is nan"),
        ({"train_steps": 2.5}, "TRAIN_STEPS is 2.5"),
        ({"eval_period": "1"}, "EVAL_PERIOD is '1'"),
        (
            {"early_stopping_patience": 3, "eval_period": 0},
            "EARLY_STOPPING_PATIENCE is 3, but EVAL_PERIOD is 0.*Set --gin.EVAL_PERIOD",
        ),
        ({"model_dir": None}, "MODEL_DIR is None; it must be a folder"),
        ({"model_dir": ""}, "MODEL_DIR is empty; set --gin.MODEL_DIR"),
        ({"frozen_dtype": "float16x"}, "FROZEN_DTYPE is 'float16x'"),
        ({"frozen_dtype": "float16"}, "FROZEN_DTYPE is 'float16'; it must be None, 'bfloat16' or"),
        (
            {"optimizer": lambda rate: optax.adamw(rate, weight_decay="0")},
            "OPTIMIZER is <lambda>, which cannot be used",
        ),
        ({"optimizer": optax.lbfgs}, "OPTIMIZER is lbfgs, which cannot be used"),
        ({"learning_rate": lambda n: optax.constant_schedule(float("nan"))}, "rate is nan"),
        ({"learning_rate": lambda n: optax.linear_schedule(0.3, -1.0, n)}, "-0.025 at step 7"),
        ({"learning_rate": lambda n: "0.3"}, "LEARNING_RATE is <lambda>, which cannot be used"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_the_folder_is_begun(tmp_path, changes, message):
    settings = {"model_dir": str(tmp_path / "run")} | changes
    with pytest.raises(InputError, match=message):
        trainer.train(dataclasses.replace(config(tmp_path), **settings), problem())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("LEARNING_RATE_PEAK = '0.3'", "LEARNING_RATE_PEAK is '0.3'; it must be a number"),
        ("LEARNING_RATE_PEAK = -1", "LEARNING_RATE_PEAK is -1"),
        ("optax.adamw.weight_decay = '1e-5'", "OPTIMIZER is adamw, which cannot be used"),
    ],
)
def test_settings_of_the_optimizer_are_refused_before_the_folder_is_begun(
    tmp_path, binding, message
):
    with pytest.raises(InputError, match=message):
        train(tmp_path / "run", binding)
    assert not any(tmp_path.iterdir())


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trainer.train(config("~/run", train_steps=2), problem())
    assert trained(tmp_path / "run", 2).shape == (4,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "other"),
    [
        ("sentencepiece.model", b"pieces", b"others"),
        ("few_shot.json", {"rows": [(1,), (2,)]}, {"rows": [[1], [3]]}),
    ],
)
def test_a_run_goes_on_with_the_files_it_began_with(tmp_path, name, first, other):
    def start(steps, files):
        kept = dataclasses.replace(problem(), files=files)
        return trainer.train(config(tmp_path, train_steps=steps, eval_period=0), kept)["last_step"]

    start(2, {name: first})
    # What a later version says besides is no difference.
    saved = {**first, "version": 2} if isinstance(first, dict) else first
    assert start(3, {name: saved, "new.json": {}}) == 3
    with pytest.raises(InputError, match=f"began with another {name}"):
        start(4, {name: other})
    assert start(4, {name: first}) == 4
