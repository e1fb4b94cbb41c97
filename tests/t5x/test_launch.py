"""t5x.train, t5x.eval and t5x.infer with our gin files, on 4 virtual devices (data 2 x model 2)."""

import json
import re
import signal
import time

import numpy as np
import pytest

pytest.importorskip("t5x", reason="T5X is not on PYTHONPATH: docs/t5x.md", exc_type=ImportError)

from flax.traverse_util import flatten_dict

from dpt_jax import demo
from dpt_jax.analysis.results import read_run
from dpt_jax.cli.main import main
from dpt_jax.gin_utils import gin_configs
from dpt_jax.interop import load_backbone, load_prompt, save_prompt
from dpt_jax.interop.adapters import load_adapter
from dpt_jax.interop.prefixes import FoldedPrefix, save_prefix
from dpt_jax.interop.t5x_checkpoint import open_checkpoint, open_prompt
from tests.support import processes
from tests.t5x import tiny

pytestmark = [pytest.mark.t5x, pytest.mark.slow]

TASK = "demo_questions"
LENGTH, BOTTLENECK = 6, 2
# As many of the validation split as T5X's evaluations decode.
EXAMPLES = 80
MACROS = {
    "MIXTURE_OR_TASK_NAME": TASK,
    "MIXTURE_OR_TASK_MODULE": "dpt_jax.demo.tasks",
    "TASK_FEATURE_LENGTHS": {"inputs": 36, "targets": 6},
    "PROMPT_LENGTH": LENGTH,
    "BATCH_SIZE": 40,
    "NUM_PARTITIONS": 2,
}
FACTORIZED = ("prompts/decomposed.gin", {"BOTTLENECK": BOTTLENECK})


def command(module, run, prompt=FACTORIZED, prefix=(), **macros):
    """The command line; values of `macros` are Python's, which gin reads."""
    prompt_file, settings = prompt
    if module != "t5x.infer":  # It has all answered.
        macros = {"seqio.Evaluator.num_examples": EXAMPLES} | macros
    files = [f"t5x/runs/{run}.gin", "t5x/models/demo.gin", prompt_file, *prefix]
    return [
        *(module, f"--gin_search_paths={gin_configs()}"),
        *(f"--gin_file={file}" for file in files),
        *(f"--gin.{name}={value!r}" for name, value in {**MACROS, **settings, **macros}.items()),
    ]


# `python -m`, called in another folder.
IN_FOLDER = """
import os, runpy, sys
_, folder, *sys.argv = sys.argv
os.chdir(folder)
sys.path.insert(0, folder)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(log, *args, **kwargs):
    """Starts T5X in a process of its own, its output in `log`."""
    with open(log, "a") as output:
        env = processes.environment(devices=4)
        return processes.Process(command(*args, **kwargs), env, stdout=output, stderr=output)


def launch(log, *args, **kwargs):
    """Runs T5X to its end; returns what it printed."""
    process = start(log, *args, **kwargs)
    assert process.wait(timeout=600) == 0, log.read_text()[-3000:]
    return log.read_text()


def saved_steps(run):
    names = (re.fullmatch(r"checkpoint_(\d+)", path.name) for path in run.glob("*"))
    return sorted(int(match[1]) for match in names if match)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The demo's backbone as T5X saves one, at step 1000."""
    config, params = load_backbone(demo.BACKBONE_DIR)
    return tiny.write_t5x_checkpoint(tmp_path_factory.mktemp("pretrained"), config, params=params)


@pytest.fixture(scope="module")
def run(tmp_path_factory, pretrained):
    """A run that was killed after it had saved step 20, and went on; what it printed then."""
    folder = tmp_path_factory.mktemp("t5x")
    settings = {
        "MODEL_DIR": str(folder / "run"),
        "INITIAL_CHECKPOINT_PATH": str(pretrained[0]),
        "EVAL_PERIOD": 20,
        "EVAL_STEPS": 1,
    }
    killed = start(
        folder / "killed.log", "t5x.train", "prompt_train", TRAIN_STEPS=10**6, **settings
    )
    try:
        for _ in range(3000):
            if killed.poll() is not None or max(saved_steps(folder / "run"), default=0) >= 20:
                break
            time.sleep(0.1)
        assert killed.poll() is None, (folder / "killed.log").read_text()[-3000:]
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    (step,) = saved_steps(folder / "run")[-1:]
    log = launch(
        folder / "resumed.log", "t5x.train", "prompt_train", TRAIN_STEPS=step + 20, **settings
    )
    return folder / "run", step, log


def test_a_killed_run_goes_on_from_the_step_it_saved(run):
    folder, step, log = run
    assert step >= 20
    assert f"Starting main loop over steps {step}-{step + 20}" in log
    # KEEP = 1 for checkpoints of gigabytes; prompts all stay.
    assert saved_steps(folder) == [step + 20]
    prompts = {
        at: load_prompt(folder / "numpy_checkpoints" / f"checkpoint_{at}")
        for at in (0, 20, step, step + 20)
    }
    assert {prompt.shape for prompt in prompts.values()} == {(LENGTH, 128)}
    assert not np.array_equal(prompts[step], prompts[step + 20])


def test_the_frozen_parameters_on_disk_are_the_pretrained_ones_bit_for_bit(run, pretrained):
    folder, step, _ = run
    _, params = load_backbone(pretrained[0])
    location = (folder / f"checkpoint_{step + 20}").as_uri()
    saved = open_checkpoint(location)
    assert set(saved) == set(flatten_dict(params, sep="/"))
    assert set(open_prompt(location)) == {"A", "B"}
    for name, array in flatten_dict(params, sep="/").items():
        assert saved[name].read().tobytes() == np.asarray(array).tobytes(), name


@pytest.fixture(scope="module")
def dpt_evaluation(run, tmp_path_factory):
    """What `dpt evaluate` says of the prompt that T5X trained, and its answers."""
    folder, step, _ = run
    out = tmp_path_factory.mktemp("evaluation")
    prompt = folder / "numpy_checkpoints" / f"checkpoint_{step + 20}" / "prompt.npy"
    return evaluate_with_dpt(prompt, out)


def evaluate_with_dpt(prompt, out):
    status = main(
        [
            "evaluate",
            "--gin_file=runs/demo.gin",
            f"--gin.MIXTURE_OR_TASK_NAME={TASK!r}",
            f"--prompt={prompt}",
            f"--predictions={out}",
        ]
    )
    assert status in (0, None)
    (file,) = out.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def accuracy(answers):
    return np.mean([answer["prediction"] == answer["target"] for answer in answers])


def test_t5x_eval_reads_what_t5x_train_saved_and_agrees_with_dpt_evaluate(
    run, dpt_evaluation, tmp_path
):
    folder, step, _ = run
    launch(
        tmp_path / "log",
        "t5x.eval",
        "prompt_eval",
        CHECKPOINT_PATH=str(folder / f"checkpoint_{step + 20}"),
        EVAL_OUTPUT_DIR=str(tmp_path / "eval"),
    )
    line = (tmp_path / "eval" / "inference_eval" / f"{TASK}-metrics.jsonl").read_text()
    metrics = json.loads(line)
    assert metrics["step"] == step + 20
    np.testing.assert_allclose(metrics["accuracy"], accuracy(dpt_evaluation[:EXAMPLES]))


def test_t5x_infer_answers_as_dpt_evaluate_does(run, dpt_evaluation, tmp_path):
    folder, step, _ = run
    launch(
        tmp_path / "log",
        "t5x.infer",
        "prompt_infer",
        CHECKPOINT_PATH=str(folder / f"checkpoint_{step + 20}"),
        INFER_OUTPUT_DIR=str(tmp_path / "infer"),
    )
    (file,) = (tmp_path / "infer").glob("*.jsonl-00000-of-00001")
    answers = [json.loads(line)["prediction"] for line in file.read_text().splitlines()]
    assert [answer.strip() for answer in answers] == [a["prediction"] for a in dpt_evaluation]
    assert len(set(answers)) > 1


def test_a_prompt_of_dpts_starts_a_run_that_saves_nothing_but_what_is_trained(tmp_path, pretrained):
    values = np.random.default_rng(0).normal(size=(LENGTH, 128)).astype(np.float32)
    save_prompt(tmp_path / "dpt", values)  # As `dpt train` leaves it.
    file, run = tmp_path / "dpt" / "prompt.npy", tmp_path / "run"
    prompt = ("prompts/vanilla_from_prompt.gin", {"PROMPT_FILE": str(file)})
    settings = {
        "prompt": prompt,
        "prefix": ["prefixes/simple_shared.gin"],
        "PREFIX_LENGTH": 3,
        "MODEL_DIR": str(run),
        "INITIAL_CHECKPOINT_PATH": str(pretrained[0]),
        "SAVE_ONLY_PROMPT": True,
        "EVAL_PERIOD": 2,
        "EVAL_STEPS": 1,
    }
    no_evaluation = {"train.train_eval_dataset_cfg": None, "train.infer_eval_dataset_cfg": None}
    launch(
        tmp_path / "log", "t5x.train", "prompt_train", TRAIN_STEPS=2, **settings, **no_evaluation
    )
    start = run / "numpy_checkpoints" / "checkpoint_0"
    np.testing.assert_array_equal(load_prompt(start), np.load(file))
    file.unlink()
    log = launch(tmp_path / "again", "t5x.train", "prompt_train", TRAIN_STEPS=4, **settings)
    assert "Starting main loop over steps 2-4" in log
    assert saved_steps(run) == []
    first, last = (load_adapter(run / "numpy_checkpoints" / f"checkpoint_{at}") for at in (0, 4))
    assert not np.array_equal(first.prompt, last.prompt)
    for name in ("encoder_keys", "encoder_values"):
        arrays = first.prefix.arrays[name], last.prefix.arrays[name]
        assert arrays[0].shape == arrays[1].shape == (3, 3, 8, 16)
        assert not np.array_equal(*arrays)


def test_dpt_reads_what_t5x_train_leaves(run, pretrained, tmp_path):
    folder, step, _ = run
    row = read_run(folder)
    lines = (folder / "inference_eval" / f"{TASK}-metrics.jsonl").read_text().splitlines()
    scores = {line["step"]: line["accuracy"] for line in map(json.loads, lines)}
    assert (row["status"], row["last_step"]) == ("done", step + 20)
    assert row["value"] == scores[row["best_step"]] == max(scores.values())
    saved = folder / f"checkpoint_{step + 20}"
    np.testing.assert_allclose(
        load_prompt(saved), load_prompt(folder / "numpy_checkpoints" / saved.name), rtol=1e-6
    )
    _, params = load_backbone(pretrained[0])
    _, found = load_backbone(saved)
    for name, array in flatten_dict(params, sep="/").items():
        np.testing.assert_array_equal(flatten_dict(found, sep="/")[name], array)


def test_files_are_evaluated_on_a_folder_that_is_named_after_no_step(run, tmp_path):
    folder, step, _ = run
    (tmp_path / "models").mkdir()  # Gin takes such folders for packages.
    (tmp_path / "prompts").mkdir()
    prompt = load_prompt(folder / "numpy_checkpoints" / f"checkpoint_{step + 20}")
    rng = np.random.default_rng(0)
    arrays = {
        f"{stack}_{kind}": rng.normal(size=(layers, 3, 8, 16)).astype(np.float32)
        for stack, layers in (("encoder", 3), ("decoder", 2), ("cross", 2))
        for kind in ("keys", "values")
    }
    files = tmp_path / "files"
    save_prompt(files, prompt)
    save_prefix(files, FoldedPrefix(arrays))
    with open(tmp_path / "log", "w") as output:
        arguments = command(
            "t5x.eval",
            "prompt_eval",
            ("prompts/vanilla_from_prompt.gin", {"PROMPT_FILE": str(files / "prompt.npy")}),
            prefix=["prefixes/free_from_prefix.gin"],
            PREFIX_FILE=str(files / "prefix.npz"),
            CHECKPOINT_PATH=str(demo.BACKBONE_DIR),
            EVAL_OUTPUT_DIR="eval",
        )
        process = processes.Process(
            ["-c", IN_FOLDER, tmp_path, *arguments],
            processes.environment(devices=4),
            stdout=output,
            stderr=output,
        )
    assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()[-3000:]
    line = (tmp_path / "eval" / "inference_eval" / f"{TASK}-metrics.jsonl").read_text()
    with_dpt = accuracy(evaluate_with_dpt(files, tmp_path / "answers")[:EXAMPLES])
    np.testing.assert_allclose(json.loads(line)["accuracy"], with_dpt)


def test_packing_is_refused(tmp_path, pretrained):
    arguments = command(
        "t5x.train",
        "prompt_train",
        MODEL_DIR=str(tmp_path / "run"),
        INITIAL_CHECKPOINT_PATH=str(pretrained[0]),
        TRAIN_STEPS=2,
    )
    done = processes.run(*arguments, "--gin.utils.DatasetConfig.pack=True")
    assert done.returncode != 0
    assert re.search("InputError: .*packed", done.stderr)
    assert not list((tmp_path / "run").glob("*checkpoint*"))
