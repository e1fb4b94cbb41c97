"""A run that is killed, stopped or asked for again reaches what an unbroken run reaches."""

import dataclasses
import functools
import os
import pathlib
import random
import signal
import time

import jax
import numpy as np
import optax
import pytest

from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError, Stopped
from dpt_jax.models import T5Config
from dpt_jax.problems import text
from dpt_jax.prompts import DecomposedPrompt, ResidualNorm, ResidualPrompt, VanillaPrompt
from dpt_jax.training import schedules
from dpt_jax.training.checkpoints import Checkpoints
from dpt_jax.training.optimizers import orthogonal
from tests.support import processes, runs

STEPS = 24
MACROS = {
    "TRAIN_STEPS": STEPS,
    "EVAL_PERIOD": 4,
    "config.RunConfig.checkpoint_period": 1,
    "config.RunConfig.log_period": 3,
    "DROPOUT_RATE": 0.1,
    "MIXTURE_OR_TASK_NAME": "toy_mixture",
}

# Matrices and vectors, which the optimizer treats apart.
FAST = {
    "optimizer": functools.partial(orthogonal, momentum=0.8),
    "learning_rate": functools.partial(schedules.linear_warmup_linear_decay, peak=0.1),
    "prompt": ResidualPrompt(runs.PROMPT_LENGTH, runs.WIDTH, 4, prompt_init=ResidualNorm()),
    "balanced_batches": True,
}


def latest(model_dir):
    folder = pathlib.Path(model_dir) / "checkpoints"
    return max((int(p.name) for p in folder.glob("*") if p.name.isdigit()), default=0)


def wait_for_step(process, model_dir, step):
    while latest(model_dir) < step and process.poll() is None:
        time.sleep(0.01)


def same_run(folder, expected):
    """The same prompts, log lines and predictions, and nothing left lying about."""
    assert runs.metrics(folder) == runs.metrics(expected)
    for path in [
        *expected.glob("numpy_checkpoints/*/*.np?"),
        *expected.glob("predictions/*.jsonl"),
    ]:
        other = folder / path.relative_to(expected)
        if path.suffix == ".npz":
            ours, theirs = np.load(other), np.load(path)
            assert ours.files == theirs.files
            assert all(ours[k].tobytes() == theirs[k].tobytes() for k in theirs.files)
        else:
            assert other.read_bytes() == path.read_bytes(), path
    assert paths(folder) == paths(expected)


def paths(folder):
    # Orbax names the files in a step at random, TensorBoard by the time.
    found = (p.relative_to(folder) for p in folder.rglob("*") if "tfevents" not in p.name)
    return {str(p) for p in found if p.parts[0] != "checkpoints" or len(p.parts) < 3}


@pytest.mark.slow
def test_a_run_killed_again_and_again_reaches_the_same_prompt(backbone, tmp_path, capfd):
    from dpt_jax.cli.main import main

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(runs.arguments(whole, backbone, **MACROS)) == 0
    argv = runs.arguments(broken, backbone, **MACROS)

    # Each one continues where the last was killed.
    for place, step in (
        ("in_log", 3),
        ("in_export", 6),
        ("before_checkpoint", 8),
        ("in_checkpoint", 12),
        ("in_prune", 17),
    ):
        process = processes.start([place, step, *argv], module="tests.support.killed")
        _, err = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, (place, err)
        assert latest(broken) == (step if place == "in_prune" else step - 1), place

    process = processes.start(argv)
    wait_for_step(process, broken, 18)
    time.sleep(random.random() * 0.05)
    process.kill()
    process.communicate(timeout=300)

    process = processes.start(["stop", 20, *argv], module="tests.support.killed")
    _, err = process.communicate(timeout=300)
    stopped = latest(broken)
    # Before it was killed, the last one may have come to the end.
    assert process.returncode == (143 if stopped < STEPS else 0), err
    if stopped < STEPS:
        assert f"stopped by SIGTERM after saving step {stopped}" in err
        assert "run the same command to continue" in err

    assert main(argv) == 0
    same_run(broken, whole)
    # What a killed process wrote beyond its checkpoint is forgotten there as well.
    assert len(list(broken.glob("events.out.tfevents.*"))) > 5
    assert runs.tensorboard(broken) == runs.logged(whole)

    capfd.readouterr()
    before = runs.contents(broken)
    assert main(argv) == 0
    assert f"is finished: step {STEPS} of {STEPS}. Nothing to do" in capfd.readouterr().err
    assert runs.contents(broken) == before


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "recipe"), [(2, {}), (7, {}), (7, FAST)])
def test_a_signal_saves_first_and_the_run_goes_on_as_if_unbroken(
    backbone, tmp_path, monkeypatch, stop, recipe
):
    # Neither step is one of the log's, an evaluation's or a checkpoint's.
    def config(folder):
        model = dataclasses.replace(runs.T5, dropout_rate=0.1)
        return runs.run_config(
            folder,
            backbone,
            model=model,
            log_period=5,
            eval_period=0,
            checkpoint_period=6,
            **recipe,
            num_buckets=2,
        )

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = text.train(config(whole))
    calls = []
    put = partitioning.put_batch

    def put_batch(*args):
        calls.append(0)
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return put(*args)

    with monkeypatch.context() as patch:
        patch.setattr(partitioning, "put_batch", put_batch)
        with pytest.raises(Stopped, match=f"SIGTERM after saving step {stop}"):
            text.train(config(broken))
    assert latest(broken) == stop
    found = text.train(config(broken))
    assert found | {"train_seconds": 0} == expected | {"train_seconds": 0}
    same_run(broken, whole)


@pytest.mark.slow
def test_training_on_from_a_finished_run_is_training_longer(backbone, tmp_path):
    def config(folder, steps):
        return runs.run_config(
            folder, backbone, train_steps=steps, eval_period=0, optimizer=optax.adafactor
        )

    text.train(config(tmp_path / "one", 8))
    text.train(config(tmp_path / "one", 14))
    text.train(config(tmp_path / "two", 14))
    np.testing.assert_array_equal(
        runs.prompt(tmp_path / "one", 14), runs.prompt(tmp_path / "two", 14)
    )


OTHER_T5 = T5Config(emb_dim=runs.WIDTH, dropout_rate=0.0, **runs.SIZES | {"mlp_dim": 64})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model": OTHER_T5}, "model.mlp_dim: saved 32, now 64"),
        ({"prompt": DecomposedPrompt(5, 16, 2)}, "prompt.length: saved 4, now 5"),
        ({"prompt": DecomposedPrompt(4, 16, 3)}, "prompt.bottleneck: saved 2, now 3"),
        (
            {"prompt": VanillaPrompt(4, 16)},
            "prompt.method: saved 'DecomposedPrompt', now 'VanillaPrompt'",
        ),
        ({"prompt": None}, "trainable: saved 'prompt/.*', now '.*'"),
        (
            {"mixture_or_task_name": "toy_z"},
            "task.mixture_or_task_name: saved 'toy_x', now 'toy_z'",
        ),
        (
            {"task_feature_lengths": {"inputs": 50, "targets": 6}},
            "task.task_feature_lengths.inputs: saved 64, now 50",
        ),
        ({"batch_size": 8}, "data.batch_size: saved 16, now 8"),
        ({"random_seed": 1}, "data.random_seed: saved 0, now 1"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_as_it_was(
    backbone, finished, changes, difference
):
    before = runs.contents(finished)
    with pytest.raises(InputError) as error:
        text.train(runs.run_config(finished, backbone, eval_period=0, **changes))
    assert difference in str(error.value)
    assert "nothing was changed" in str(error.value) and "--gin.MODEL_DIR" in str(error.value)
    assert runs.contents(finished) == before


@pytest.fixture(scope="module")
def finished(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    text.train(runs.run_config(folder, backbone, train_steps=2, eval_period=0))
    return folder


@pytest.mark.slow
def test_another_backbone_or_optimizer_is_refused(backbone, finished, tmp_path):
    from dpt_jax.interop import save_backbone

    before = runs.contents(finished)
    save_backbone(tmp_path / "other", runs.T5, runs.random_parameters(seed=4))
    with pytest.raises(InputError, match="backbone_fingerprint: saved"):
        text.train(runs.run_config(finished, tmp_path / "other", eval_period=0))
    config = runs.run_config(finished, backbone, eval_period=0, optimizer=optax.adafactor)
    with pytest.raises(InputError, match="checkpoints/2 holds another state than this run's"):
        text.train(config)
    assert runs.contents(finished) == before


def test_files_of_an_unknown_run_are_not_written_over(backbone, tmp_path):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds checkpoints but no run\.json"):
        text.train(runs.run_config(tmp_path, backbone))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file"):
        text.train(runs.run_config(tmp_path / "file", backbone))


def test_a_checkpoint_gives_back_the_state_it_was_given(tmp_path):
    from dpt_jax.training.checkpoints import abstract
    from dpt_jax.training.state import TrainState

    params = {"prompt": {"A": jax.numpy.asarray(np.random.default_rng(0).normal(size=(4, 2)))}}
    state = TrainState.create(params, optax.adamw(0.1), seed=7)
    saver = Checkpoints(tmp_path)
    saver.save(state.replace(step=state.step + 5), {"best": {"value": 0.1}})
    restored, progress = Checkpoints(tmp_path).restore(abstract(state))
    assert progress == {"best": {"value": 0.1}}
    assert int(restored.step) == 5
    for ours, theirs in zip(
        jax.tree.leaves(restored), jax.tree.leaves(state.replace(step=5)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    with pytest.raises(InputError, match="holds no checkpoint of step 6"):
        saver.restore(abstract(state), 6)
