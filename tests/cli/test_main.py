"""What `dpt` says of a command line that it cannot use."""

import pytest

from dpt_jax.cli.main import main
from dpt_jax.version import __version__


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "there is no command 'trian'"),
        (["trian"], "Nearest: train."),
        (
            ["evaluate", "--model-dir=x"],
            "unrecognized argument: --model-dir=x. Nearest: --model_dir",
        ),
    ],
)
def test_what_is_mistyped_is_named_with_the_nearest(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"dpt-jax {__version__}\n"


DEMO = ["train", "--gin_file=runs/demo.gin"]
NEEDED = ["--gin.MODEL_DIR='x'", "--gin.MIXTURE_OR_TASK_NAME='demo_questions'"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--gin_file=folder"], "folder is a folder, no gin file"),
        (["train", "--gin_file=broken.gin"], "(broken.gin, line 2: B = [1"),
        (["train", "--gin_file=open.gin"], "multi-line statement"),
        (["train", "--gin_file=unknown.gin"], 'In file "unknown.gin", line 1: A = @nothing'),
        ([*DEMO, "--gin.optax.adamw.wieght_decay=1"], "Nearest: weight_decay"),
        ([*DEMO, "--gin.LEARNING_RATE_PEAK=float('nan')"], "a value is written as in Python"),
        ([*DEMO, "--gin.models.T5Config.dtype='float16x'"], "must be 'float32' or 'bfloat16'"),
        # They are macros of ours, but of no use to this run.
        ([*DEMO, "--gin.SHOTS=8"], "--gin.SHOTS is set, but nothing in this run uses it."),
        ([*DEMO, "--gin.PERCENT=10"], "--gin.PERCENT is set, but nothing"),
        ([*DEMO, "--gin.PREFIX_FILE=gone.npz"], "--gin.PREFIX_FILE is set, but nothing"),
        ([*DEMO, "--gin.PROMPT_FILE=/nowhere.npy"], "or add the gin file that uses it"),
        (["plan", "--topology=v5e:1x1", "--model=demo", "--gin.SHOTS=8"], "--gin.SHOTS is set"),
        (["sweep", "demo_bottleneck", "--gin.SHOTS=8"], "--gin.SHOTS is set"),
        (["rank", "--probe", *DEMO[1:], *NEEDED, "--gin.SHOTS=8"], "--gin.SHOTS is set"),
        (["sweep", "demo_bottleneck", "--gin.Sweep.gird={}"], "Nearest: grid"),
        (["sweep", "--gin_file=empty.gin"], "empty.gin sets no sweeps.Sweep.name"),
        (["train", "--gin_file=empty.gin"], "empty.gin is no run file"),
        (["evaluate", "--model_dir=run"], "run/config.gin is no run file"),
        (["predict", "--model_dir=run"], "run/config.gin is no run file"),
        (["plan", "--topology=v5e:4x4", "--gin_file=empty.gin"], "empty.gin is no run file"),
    ],
)
def test_gin_files_and_bindings_that_cannot_be_used_are_one_line(
    argv, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "run"):
        (tmp_path / folder).mkdir()
    files = {
        "empty.gin": "",
        "run/config.gin": "",
        "broken.gin": "A = 1\nB = [1, 2 3]\n",
        "open.gin": "A = [1,\n",
        "unknown.gin": "A = @nothing\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    more = ["--gin_file=prompts/decomposed.gin", *NEEDED] if argv[:2] == DEMO else []
    assert main([*argv, *more]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and "registry" not in err
    assert len(err.splitlines()) == 1
