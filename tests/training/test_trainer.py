"""Whole runs on the toy task, in this process: what they train, keep and report."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from dpt_jax.errors import InputError, NonFiniteLossError
from dpt_jax.evaluation.evaluator import Evaluator
from dpt_jax.interop import load_backbone
from dpt_jax.problems import text
from dpt_jax.progress import Progress
from dpt_jax.prompts import DecomposedPrompt, VanillaPrompt
from dpt_jax.training import schedules, trainer
from dpt_jax.training.problem import TaskResult
from tests.support import runs


@pytest.fixture
def spied(monkeypatch):
    """The `Run` objects of the trainings in a test."""
    made = []

    class Spy(trainer.Run):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(trainer, "Run", Spy)
    return made


@pytest.fixture
def scores(monkeypatch):
    """Evaluation that gives the accuracies in a list, one after the other."""
    left = []

    def evaluate(self, params):
        return [TaskResult("toy_x", {"accuracy": left.pop(0)}, [{"inputs": "a"}])]

    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    return left


def same_bits(ours, expected):
    ours, expected = flatten_dict(ours, sep="/"), flatten_dict(expected, sep="/")
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        assert np.asarray(ours[name]).dtype == array.dtype, name
        assert np.asarray(ours[name]).tobytes() == array.tobytes(), name


@pytest.mark.slow
def test_training_a_prompt_leaves_the_frozen_parameters_bit_for_bit(backbone, tmp_path, spied):
    before = runs.contents(backbone)
    started = load_backbone(backbone)[1]
    text.train(runs.run_config(tmp_path, backbone, eval_period=0, learning_rate=half))
    [run] = spied
    same_bits(run.frozen, started)
    assert runs.contents(backbone) == before
    assert set(run.state.params) == {"prompt"}
    sizes = {x.size for x in jax.tree.leaves(run.state.opt_state)}
    assert sizes == {1, 4 * 2, 2 * 16}
    # And it did train.
    assert np.abs(run.state.params["prompt"]["A"]).max() > 1


def half(train_steps):
    return schedules.constant(train_steps, peak=0.5)


@pytest.mark.slow
def test_frozen_parameters_may_be_stored_in_bfloat16(backbone, tmp_path, spied):
    config = runs.run_config(
        tmp_path, backbone, train_steps=2, eval_period=0, frozen_dtype="bfloat16", num_buckets=1
    )
    text.train(config)
    [run] = spied
    started = load_backbone(backbone)[1]
    same_bits(run.frozen, jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), started))
    assert run.state.params["prompt"]["A"].dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("prompted", [False, True])
def test_the_same_trainer_trains_everything(backbone, tmp_path, spied, prompted):
    changes = {} if prompted else {"prompt": None}
    config = runs.run_config(
        tmp_path,
        backbone,
        train_steps=2,
        eval_period=0,
        num_buckets=1,
        trainable=".*",
        learning_rate=half,
        **changes,
    )
    summary = text.train(config)
    [run] = spied
    assert run.frozen == {}
    started = flatten_dict(load_backbone(backbone)[1])
    trained = flatten_dict(run.state.params)
    assert all(np.any(np.asarray(trained[name]) != started[name]) for name in started)
    assert summary["trainable_parameters"] == sum(x.size for x in started.values()) + (
        40 if prompted else 0
    )
    assert (tmp_path / "numpy_checkpoints").exists() == prompted


@pytest.mark.slow
def test_the_logged_learning_rate_is_the_one_used(backbone, tmp_path, monkeypatch):
    # With plain gradient descent a step moves the prompt by rate times gradient norm.
    monkeypatch.setattr(trainer.Run, "_prune", lambda self: None)
    config = runs.run_config(
        tmp_path,
        backbone,
        prompt=VanillaPrompt(4, runs.WIDTH),
        optimizer=optax.sgd,
        learning_rate=lambda n: schedules.linear_warmup_linear_decay(n, 2.0, 0.25),
        eval_period=0,
        checkpoint_period=1,
        log_period=1,
        clip_norm=None,
    )
    text.train(config)
    lines = runs.metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines[1:]:
        i = line["step"]
        expected = 2.0 * (i - 1) / 3 if i <= 3 else 2.0 * (12 - (i - 1)) / 9
        assert line["learning_rate"] == pytest.approx(expected, rel=1e-5)
        moved = runs.prompt(tmp_path, i) - runs.prompt(tmp_path, i - 1)
        used = np.linalg.norm(moved) / line["grad_norm"]
        assert used == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_large_gradient_is_cut_to_clip_norm(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Run, "_prune", lambda self: None)
    config = runs.run_config(
        tmp_path,
        backbone,
        prompt=VanillaPrompt(4, runs.WIDTH),
        optimizer=optax.sgd,
        learning_rate=half,
        eval_period=0,
        checkpoint_period=1,
        log_period=1,
        train_steps=3,
        clip_norm=1e-3,
        num_buckets=1,
    )
    text.train(config)
    assert all(line["grad_norm"] > 1e-3 for line in runs.metrics(tmp_path))
    for step in (2, 3):
        moved = runs.prompt(tmp_path, step) - runs.prompt(tmp_path, step - 1)
        assert np.linalg.norm(moved) == pytest.approx(0.5 * 1e-3, rel=1e-2)


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_pass_over_the_buckets(
    backbone, tmp_path, monkeypatch, spied
):
    compiled, seen = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    update = Progress.update

    def count(self, step, total, text):
        seen.append((step, len(compiled)))
        update(self, step, total, text)

    monkeypatch.setattr(Progress, "update", count)
    config = runs.run_config(tmp_path, backbone, train_steps=18, log_period=1, num_buckets=2)
    text.train(config)
    [run] = spied
    assert len(run.problem.data.buckets) == 2
    assert run.train_step._cache_size() == 2
    counts = dict(seen)
    # Steps 1 to 6 are the first epoch, and step 6's evaluation comes after its count.
    assert counts[6] > 0
    assert counts[18] == counts[7]

    # A run that continues compiles each program once as well.
    text.train(dataclasses.replace(config, train_steps=30))
    assert spied[1].train_step._cache_size() == 2
    counts = dict(seen)
    assert counts[30] == counts[25]


@pytest.mark.slow
def test_best_and_latest_are_kept_and_reported(backbone, tmp_path, scores):
    scores[:] = [0.25, 0.75, 0.5, 0.75, 0.5]
    config = runs.run_config(tmp_path, backbone, train_steps=9, eval_period=2, checkpoint_period=3)
    summary = text.train(config)
    for folder, prefix in (("checkpoints", ""), ("numpy_checkpoints", "checkpoint_")):
        found = {p.name for p in (tmp_path / folder).iterdir() if not p.name.startswith(".")}
        # On a tie the earlier step is the best.
        assert found == {f"{prefix}4", f"{prefix}9"}
    assert {p.name for p in (tmp_path / "numpy_checkpoints/checkpoint_4").iterdir()} == {
        "prompt.npy",
        "prompt_params.npz",
    }
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary.pop("train_seconds") > 0
    assert summary == {
        "best_step": 4,
        "best_value": 0.75,
        "metrics": {"toy_x": {"accuracy": 0.75}},
        "last_step": 9,
        "train_steps": 9,
        "trainable_parameters": 40,
    }


@pytest.mark.slow
def test_early_stopping_waits_for_its_patience(backbone, tmp_path, scores, capsys):
    scores[:] = [0.5, float("nan"), 0.75, 0.5, 0.75, 1.0]
    config = runs.run_config(
        tmp_path, backbone, train_steps=12, eval_period=2, early_stopping_patience=2
    )
    summary = text.train(config)
    assert (summary["best_step"], summary["last_step"]) == (6, 10)
    assert scores == [1.0]
    assert "stopped early: 2 evaluations without improvement over step 6" in capsys.readouterr().err
    before = runs.contents(tmp_path)
    assert text.train(config) == summary
    assert "is finished: step 10 of 12, stopped early" in capsys.readouterr().err
    assert runs.contents(tmp_path) == before


@pytest.mark.slow
def test_an_undefined_metric_is_never_the_best(backbone, tmp_path, scores):
    scores[:] = [float("nan"), 0.5]
    config = runs.run_config(tmp_path, backbone, train_steps=2, eval_period=1, num_buckets=1)
    assert text.train(config)["best_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "evaluated", "last"),
    [
        ({"train_steps": None, "epochs": 2, "eval_period": "epoch"}, [6, 12], 12),
        ({"train_steps": 5, "epochs": 2, "eval_period": "epoch"}, [5], 5),
        ({"train_steps": 5, "eval_period": 2}, [2, 4, 5], 5),
        ({"train_steps": 5, "eval_period": 0}, [], 5),
    ],
)
def test_runs_last_epochs_or_steps_and_evaluate_when_asked(
    backbone, tmp_path, scores, changes, evaluated, last
):
    scores[:] = [0.5] * 3
    summary = text.train(runs.run_config(tmp_path, backbone, **changes))
    lines = runs.metrics(tmp_path)
    assert [line["step"] for line in lines if line["split"] == "validation"] == evaluated
    assert summary["last_step"] == last
    assert summary["best_step"] == (evaluated[0] if evaluated else None)
    assert runs.prompt(tmp_path, last).shape == (4, 16)


@pytest.mark.slow
def test_a_run_writes_metrics_predictions_and_tensorboard(backbone, tmp_path):
    text.train(
        runs.run_config(tmp_path, backbone, mixture_or_task_name="toy_mixture", train_steps=24)
    )
    lines = runs.metrics(tmp_path)
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == [10, 12, 20, 24]
    for line in train:
        assert set(line) == {"step", "split", "task", "loss", "grad_norm", "learning_rate"}
        assert line["task"] is None
    evaluated = [line for line in lines if line["split"] == "validation"]
    assert [(line["step"], line["task"]) for line in evaluated] == [
        (step, task) for step in (12, 24) for task in ("toy_x", "toy_z")
    ]
    for line in evaluated:
        assert set(line) == {"step", "split", "task", "accuracy"}
        path = tmp_path / "predictions" / f"{line['task']}_{line['step']}.jsonl"
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        assert len(rows) == 20
        assert set(rows[0]) == {"inputs", "target", "output", "prediction"}
        right = sum(row["prediction"] == row["target"] for row in rows)
        assert line["accuracy"] == right / 20

    shown = runs.tensorboard(tmp_path)
    assert shown == runs.logged(tmp_path)
    tags = {"train/loss", "train/grad_norm", "train/learning_rate"}
    assert shown.keys() == tags | {f"validation/{task}/accuracy" for task in ("toy_x", "toy_z")}


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(backbone, tmp_path):
    def explodes(schedule):
        def update(updates, state, params=None):
            del params
            factor = jnp.where(state == 6, jnp.nan, 0.1)
            return jax.tree.map(lambda g: -factor * g, updates), state + 1

        return optax.GradientTransformation(lambda p: jnp.zeros((), jnp.int32), update)

    config = runs.run_config(
        tmp_path, backbone, optimizer=explodes, learning_rate=half, eval_period=0,
        checkpoint_period=3,
    )  # fmt: skip
    with pytest.raises(NonFiniteLossError) as error:
        text.train(config)
    # The seventh update spoils the prompt; the eighth step's loss shows it.
    for part in ("loss is nan at step 8", "learning rate 0.5", str(tmp_path / "checkpoints" / "6")):
        assert part in str(error.value)
    assert np.isfinite(runs.prompt(tmp_path, 6)).all()
    assert max(line["step"] for line in runs.metrics(tmp_path)) == 6
    # And from there a mended run goes on.
    mended = runs.run_config(
        tmp_path, backbone, learning_rate=half, eval_period=0, train_steps=8,
        optimizer=lambda schedule: optax.GradientTransformation(
            lambda p: jnp.zeros((), jnp.int32),
            lambda u, s, params=None: (jax.tree.map(lambda g: -0.1 * g, u), s + 1),
        ),
    )  # fmt: skip
    assert text.train(mended)["last_step"] == 8


@pytest.mark.slow
def test_a_spoiled_prompt_is_never_saved(backbone, tmp_path):
    def spoils(schedule):
        return optax.GradientTransformation(
            lambda p: (), lambda u, s, params=None: (jax.tree.map(lambda g: g * jnp.nan, u), s)
        )

    config = runs.run_config(
        tmp_path, backbone, optimizer=spoils, eval_period=0, checkpoint_period=1, num_buckets=1
    )
    with pytest.raises(NonFiniteLossError, match="step 1,.*there is no checkpoint yet"):
        text.train(config)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("bottleneck", "told"), [(3, ()), (4, ("BOTTLENECK = 4", "80 ", "64"))])
def test_a_bottleneck_that_saves_nothing_is_told_with_both_numbers(
    backbone, tmp_path, bottleneck, told
):
    # b (P + D) against P D, with P = 4 and D = 16.
    prompt = DecomposedPrompt(runs.PROMPT_LENGTH, runs.WIDTH, bottleneck)
    config = runs.run_config(tmp_path, backbone, prompt=prompt, eval_period=0)
    first, *lines = text.prepare(config).problem().description.splitlines()
    assert first.startswith("90 examples") and len(lines) == bool(told)
    assert all(part in lines[0] for part in told)


def test_a_pattern_that_trains_nothing_is_refused_with_nothing_written(backbone, tmp_path):
    with pytest.raises(InputError, match="No parameter matches .*'promt/"):
        text.train(runs.run_config(tmp_path / "run", backbone, trainable="promt/.*"))
    assert not (tmp_path / "run").exists()
