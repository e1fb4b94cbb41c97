"""dpt train and bad input: one clear message, exit status 2, and nothing written or compiled."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dpt_jax import interop
from dpt_jax.cli.main import main
from dpt_jax.models import T5Config
from dpt_jax.training import trainer
from tests.support import runs


@pytest.fixture
def refused(backbone, tmp_path, monkeypatch, capfd):
    """Runs a command line that must fail; returns its message."""

    def run(*more, prompt="prompts/decomposed.gin", path=None, **macros):
        def too_late(*_):
            raise AssertionError("went on to compile and train")

        monkeypatch.setattr(trainer.Run, "__init__", too_late)
        argv = runs.arguments(tmp_path / "run", path or backbone, prompt, **macros)
        capfd.readouterr()
        status = main([*argv, *more])
        out, err = capfd.readouterr()
        assert status == 2, err
        assert out == ""
        assert err.startswith("dpt train: error: ") and "Traceback" not in err
        assert err.count("error") <= 2 and len(err) < 1000
        assert not (tmp_path / "run").exists()
        return err

    return run


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 8), ["(4, 8)", "(4, 16)", "EMBED_DIM"]),
        ((3, 16), ["(3, 16)", "(4, 16)", "PROMPT_LENGTH"]),
        ((4,), ["(4,)"]),
        ((1, 4, 16), ["(1, 4, 16)"]),
    ],
)
@pytest.mark.parametrize("method", ["vanilla_from_prompt", "decomposed_from_prompt"])
def test_a_prompt_file_of_another_shape(refused, tmp_path, shape, message, method):
    np.save(tmp_path / "p.npy", np.zeros(shape, np.float32))
    err = refused(prompt=f"prompts/{method}.gin", PROMPT_FILE=str(tmp_path / "p.npy"))
    assert str(tmp_path / "p.npy") in err
    if method == "vanilla_from_prompt":
        assert all(part in err for part in message)
    else:
        assert message[0] in err


def test_a_prompt_file_that_is_missing(refused):
    err = refused(prompt="prompts/vanilla_from_prompt.gin", PROMPT_FILE="gone.npy")
    assert "gone.npy" in err and "PROMPT_FILE" in err


@pytest.mark.parametrize("name", ["BOTTLENECK", "PROMPT_LENGTH"])
@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_sizes_below_one(refused, name, value):
    err = refused(**{name: value})
    assert f"{name} is {value}" in err and f"--gin.{name}=" in err


def test_a_task_name_that_does_not_exist_shows_the_nearest(refused):
    err = refused(MIXTURE_OR_TASK_NAME="toy_y")
    assert "'toy_y'" in err and "toy_x" in err and "toy_z" in err
    assert "--gin.MIXTURE_OR_TASK_NAME" in err


def test_a_task_module_that_does_not_exist(refused):
    err = refused(MIXTURE_OR_TASK_MODULE="tests.support.toy_taks")
    assert "tests.support.toy_taks" in err and "--gin.MIXTURE_OR_TASK_MODULE" in err
    assert "found in the working directory and on PYTHONPATH" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--gin.BOTLENECK=5", "gin macro BOTLENECK is set, but nothing uses it. Nearest: BOTTLE"),
        ("--gin.optax.adamww.weight_decay=1", "No configurable matching 'optax.adamww'"),
        ("--gin.config.RunConfig.num_bukets=3", "doesn't have a parameter named 'num_bukets'"),
        ("--gin.RunConfig.num_bukets=3", "doesn't have a parameter named 'num_bukets'"),
        ("--gin.OPTIMIZER=@optax.lionn", "No configurable matching reference '@optax.lionn'"),
        ("--gin.OPTIMIZER='lion'", "OPTIMIZER is 'lion'"),
        ("--gin.LEARNING_RATE=0.3", "LEARNING_RATE is 0.3"),
        ("--gin.LEARNING_RATE_PEAK=1/3", "LEARNING_RATE_PEAK is '1/3'; it must be a number"),
        ("--gin.MIXTURE_OR_TASK_NAME=toy_", "There is no task or mixture 'toy_'. Nearest"),
        ("--gin.BATCH_SIZE=many", "BATCH_SIZE is 'many'; it must be a positive integer"),
        ("--gin.MODEL_DIR=%gin.REQUIRED", "Required gin macros are not set: MODEL_DIR."),
        ("--gin.MODEL_DIR=%FOLDER", "gin macro FOLDER is used, but not set"),
        ("--gin_file=runs/promt.gin", "no gin file 'runs/promt.gin'. Nearest: "),
        ("--gin.OVERLENGTH='cut'", "OVERLENGTH is 'cut'; it must be one of error, truncate, drop"),
        ("--gin.BATCH_SIZE=0", "BATCH_SIZE is 0; it must be a positive integer"),
        ("--gin.MICROBATCHES=3", "MICROBATCHES is 3; it must be a divisor of BATCH_SIZE = 16"),
        ("--gin.FROZEN_DTYPE='bf16'", "FROZEN_DTYPE is 'bf16'"),
        ("--gin.MESH=(2, 1, 1)", "MESH = (2, 1, 1)"),
        ("--gin.MESH=8", "MESH is 8"),
        ("--gin.TASK_FEATURE_LENGTHS={'inputs': 9}", "TASK_FEATURE_LENGTHS is {'inputs': 9}"),
        ("--gin.EVAL_PERIOD='step'", "EVAL_PERIOD is 'step'"),
        ("--gin.TRAIN_STEPS=None", "set --gin.TRAIN_STEPS or --gin.EPOCHS"),
        ("--gin.EMBED_DIM=8", "token_embedder/embedding"),
        ("--gin.T5Config.emb_dim=8", "16 wide (EMBED_DIM), the model 8"),
    ],
)
def test_a_gin_name_or_value_that_does_not_exist(refused, flag, message):
    assert message in refused(flag)


def test_no_gin_files(capfd):
    assert main(["train"]) == 2
    assert "--gin_file=runs/prompt_train.gin" in capfd.readouterr().err


TINY = "TINY"


@pytest.mark.parametrize(
    "argv",
    [
        ["train", TINY],
        ["train", TINY, "--gin.MODEL_DIR='x'", "--gin.config.RunConfig.batch_size=3"],
        ["train", "prompts/decomposed.gin"],
        ["train", "recipes/paper.gin", "--gin.MODEL_DIR='x'"],
        ["train", TINY, "prompts/decomposed.gin", "recipes/paper.gin"],
        ["train", "tasks/superglue.gin", "--gin.SUPERGLUE_DIR=None"],
        ["plan", "--topology=v5e:2x2", "models/t5_1_0_small.gin"],
        ["evaluate", "--no_prompt", TINY],
        ["predict", TINY],
    ],
)
def test_without_a_run_file_it_is_said_which_to_add(backbone, capfd, argv):
    tiny = str(backbone.parent / "tiny.gin")
    names = [tiny if name == TINY else name for name in argv[1:]]
    files = [name for name in names if name.endswith(".gin")]
    flags = [f"--gin_file={name}" if name in files else name for name in names]
    assert main([argv[0], *flags]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"dpt {argv[0]}: error: ") and all(name in err for name in files)
    assert "Add --gin_file=runs/prompt_train.gin" in err


def test_a_users_own_run_file_that_leaves_something_out(backbone, tmp_path, capfd):
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom dpt_jax.training import config\n"
        "config.RunConfig.model = %MODEL\n"
    )
    files = (backbone.parent / "tiny.gin", tmp_path / "mine.gin")
    assert main(["train", *(f"--gin_file={file}" for file in files)]) == 2
    assert "missing 5 required keyword-only arguments: 'model_dir'," in capfd.readouterr().err


@pytest.mark.parametrize("argument", ["--gin.BATCH_SIZE", "--batch_size=3", "BATCH_SIZE=3"])
def test_flags_that_are_no_bindings(capfd, argument):
    with pytest.raises(SystemExit) as stopped:
        main(["train", argument])
    assert stopped.value.code == 2
    assert f"unrecognized argument: {argument}" in capfd.readouterr().err


def test_a_backbone_that_is_missing(refused, backbone):
    err = refused(INITIAL_CHECKPOINT_PATH=str(backbone) + "s")
    assert str(backbone) + "s" in err and "INITIAL_CHECKPOINT_PATH" in err


def test_a_backbone_that_is_half_written(refused, backbone, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "backbone.json").write_bytes((backbone / "backbone.json").read_bytes())
    weights = (backbone / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert str(half) in refused(INITIAL_CHECKPOINT_PATH=str(half))
    (half / "model.safetensors").unlink()
    err = refused(INITIAL_CHECKPOINT_PATH=str(half))
    assert str(half) in err and "model.safetensors" in err


def test_a_backbone_of_another_size_shows_the_first_parameter_that_differs(refused, tmp_path):
    config = T5Config(emb_dim=runs.WIDTH, **runs.SIZES | {"mlp_dim": 24})
    import jax
    import jax.numpy as jnp

    from dpt_jax.models import Transformer

    tokens = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(
        lambda: Transformer(config).init(jax.random.key(0), tokens, tokens, tokens)["params"]
    )
    other = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    interop.save_backbone(tmp_path / "other", config, other)
    err = refused(INITIAL_CHECKPOINT_PATH=str(tmp_path / "other"))
    assert "layers_0/mlp/wi" in err
    assert "(16, 24)" in err and "(16, 32)" in err


def test_inputs_that_are_too_long_are_counted(refused):
    err = refused(TASK_FEATURE_LENGTHS={"inputs": 20, "targets": 6})
    from tests.support import toy_tasks

    long = [len(row["inputs"]) + 1 for row in toy_tasks.examples("train")]
    assert f"{sum(n > 20 for n in long)} of 90 examples of 'toy_x' (train)" in err
    assert f"the longest have {{'inputs': {max(long)}, 'targets': 4}} tokens" in err
    assert "--gin.TASK_FEATURE_LENGTHS" in err and "--gin.OVERLENGTH=\"'truncate'\"" in err


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("toy_empty", "Split 'train' of task 'toy_empty' has no examples."),
        ("toy_no_metrics", "Task 'toy_no_metrics' has no metric_fns"),
        ("toy_no_validation", "no split 'validation'; it has train"),
        ("toy_large_vocabulary", "has 359 pieces, the model embeds 264"),
        ("toy_targets_only", "has no feature ['inputs']"),
    ],
)
def test_tasks_that_cannot_be_trained_on(refused, task, message):
    err = refused(MIXTURE_OR_TASK_NAME=task, MIXTURE_OR_TASK_MODULE="tests.support.odd_tasks")
    assert message in err


def test_a_batch_that_the_devices_do_not_divide(refused, monkeypatch):
    import jax

    from dpt_jax.devices import partitioning

    mesh = jax.sharding.AbstractMesh((8, 1, 1), partitioning.MESH_AXES)
    monkeypatch.setattr(partitioning, "make_mesh", lambda shape: mesh)
    err = refused(BATCH_SIZE=12)
    assert "BATCH_SIZE = 12" in err and "8 batch shards" in err and "--gin.BATCH_SIZE" in err


@pytest.mark.slow
def test_a_folder_of_another_run_is_left_alone(backbone, tmp_path, capfd):
    argv = runs.arguments(tmp_path, backbone, TRAIN_STEPS=1, EVAL_PERIOD=0, NUM_BUCKETS=1)
    assert main(argv) == 0
    before = runs.contents(tmp_path)
    capfd.readouterr()
    assert main([*argv, "--gin.BOTTLENECK=3", "--gin.MIXTURE_OR_TASK_NAME='toy_z'"]) == 2
    err = capfd.readouterr().err
    assert "prompt.bottleneck: saved 2, now 3" in err
    assert "task.mixture_or_task_name: saved 'toy_x', now 'toy_z'" in err
    assert runs.contents(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("what", ["truncate", "drop"])
def test_a_loss_of_input_that_was_agreed_to_is_reported(backbone, tmp_path, what, capfd, caplog):
    argv = runs.arguments(
        tmp_path,
        backbone,
        OVERLENGTH=what,
        TASK_FEATURE_LENGTHS={"inputs": 20, "targets": 6},
        TRAIN_STEPS=1,
        EVAL_PERIOD=0,
        NUM_BUCKETS=1,
    )
    assert main(argv) == 0
    from tests.support import toy_tasks

    long = sum(len(row["inputs"]) + 1 > 20 for row in toy_tasks.examples("train"))
    assert (
        f"{long} of 90 examples of 'toy_x' (train) are longer than TASK_FEATURE_LENGTHS"
        in caplog.text
    )
    assert {"truncate": ": cut.", "drop": ": dropped."}[what] in caplog.text
    used = 90 if what == "truncate" else 90 - long
    assert f"toy_x: {used} examples" in capfd.readouterr().err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_with_status_1(backbone, tmp_path, capfd):
    argv = runs.arguments(tmp_path, backbone, LEARNING_RATE_PEAK=1e38, EVAL_PERIOD=0)
    assert main([*argv, "--gin.RunConfig.checkpoint_period=1"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    for part in ("dpt train: error:", "step ", "learning rate 1e+38", "checkpoint"):
        assert part in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_run_that_is_not_on_a_terminal_prints_plain_lines_and_nothing_else(backbone, tmp_path):
    argv = runs.arguments(
        tmp_path / "run",
        backbone,
        TRAIN_STEPS=2,
        NUM_BUCKETS=1,
        OVERLENGTH="truncate",
        TASK_FEATURE_LENGTHS={"inputs": 40, "targets": 6},
    )
    # What the file includes imports SeqIO, and with it TensorFlow, as the file is read.
    (tmp_path / "mine.gin").write_text('include "tasks/superglue.gin"\n')
    argv.append(f"--gin_file={tmp_path}/mine.gin")
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "dpt_jax", *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    for line, start in zip(
        lines,
        [
            "WARNING: 3 of 90 examples of 'toy_x' (train) are longer",
            "toy_x: 90 examples, 6 steps per epoch, source buckets 40, target length 8",
            "40 trainable and ",
            "run folder ",
            "step 2/2  loss ",
            "step 2  toy_x: accuracy ",
        ],
        strict=True,
    ):
        assert line.startswith(start), done.stderr
    [summary] = done.stdout.splitlines()
    assert '"last_step": 2' in summary
