"""Which prompt a row of `dpt predict` is answered with, and what is said before work is done."""

import io
import json

import numpy as np
import pytest

from dpt_jax.cli.main import main
from dpt_jax.interop import save_prompt
from tests.support import runs

ROWS = ["abc", "gfa", "xab"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with prompts, of which no two answer alike."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a/prompt", "b/prompt", "BOTTLENECK=2/prompt", "lr=0.1/prompt", "lr=0.3/prompt"):
        prompt = 5 * rng.normal(size=(runs.PROMPT_LENGTH, runs.WIDTH)).astype(np.float32)
        save_prompt(f"{name}.npy", prompt)
    return tmp_path


@pytest.fixture
def predict(folder, backbone, capsys, monkeypatch):
    """Calls `dpt predict` with the tiny T5; status, answers, and standard error."""
    train = runs.arguments("", backbone)
    gin = [a for a in train[1:] if "MODEL_DIR" not in a and "prompts/" not in a]

    def call(*argv, text="abc\n"):
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        capsys.readouterr()
        status = main(["predict", *gin, *argv])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err

    return call


def rows(*prompts):
    return "".join(
        json.dumps({"inputs": text, "prompt": prompt}) + "\n" for prompt in prompts for text in ROWS
    )


@pytest.mark.slow
def test_paths_with_equals_signs_are_paths_and_folders_have_whole_names(predict):
    def answers(*argv, prompts):
        status, out, err = predict(*argv, text=rows(*prompts))
        assert status == 0, err
        return [json.loads(line)["output"] for line in out]

    named = ["one", "two", "three"]
    expected = answers(
        "--prompt=one=./BOTTLENECK=2/prompt.npy",
        "--prompt=two=lr=0.1",
        "--prompt=three=./lr=0.3/prompt.npy",
        prompts=named,
    )
    found = answers(
        "--prompt=BOTTLENECK=2/prompt.npy",
        "--prompt=lr=0.1",
        "--prompt=lr=0.3",
        prompts=["prompt", "lr=0.1", "lr=0.3"],
    )
    assert found == expected
    assert len({tuple(found[i : i + 3]) for i in (0, 3, 6)}) == 3  # The prompts differ.


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a/prompt.npy", "b/prompt.npy"], "Two prompts have the name 'prompt': a/prompt.npy and"),
        (["x=a/prompt.npy", "x=b/prompt.npy"], "Two prompts have the name 'x'"),
        (["K=2/prompt.npy"], "there is no 2/prompt.npy to be named 'K', and no K=2/prompt.npy"),
        (["c=a"], "c=a is a file, and a is one, too. Write ./c=a"),
    ],
)
def test_a_prompt_that_would_be_lost_is_refused(predict, folder, prompts, message):
    (folder / "c=a").write_bytes(b"")
    status, out, err = predict(*(f"--prompt={prompt}" for prompt in prompts))
    assert (status, out) == (2, [])
    assert message in err and len(err.splitlines()) == 1


def test_the_name_of_the_runs_own_prompt_is_not_given_twice(predict):
    status, _, err = predict("--model_dir=some", "--prompt=run=a/prompt.npy")
    assert status == 2 and "run's own prompt" in err


@pytest.mark.slow
def test_rows_are_counted_over_the_whole_file_and_before_any_is_answered(predict, folder):
    lines = rows("prompt") * 3 + json.dumps({"inputs": "a" * 80}) + "\n"
    status, out, err = predict("--prompt=a/prompt.npy", "--window=2", text=lines)
    assert status == 2 and "Row 10 has 81 tokens" in err
    assert len(out) == 8  # A stream is answered as it comes.
    (folder / "rows.jsonl").write_text(lines)
    status, out, err = predict("--prompt=a/prompt.npy", "--window=2", "--input=rows.jsonl")
    assert (status, out) == (2, []) and "Row 10 has 81 tokens" in err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--output=a", "--output = a is a folder"),
        ("--output=a/prompt.npy/x", "a/prompt.npy is a file"),
        ("--output=/dev/null", "is a device"),
        ("--output=/proc/nowhere/x", "cannot be written"),
        ("--input=a", "--input = a: is a folder"),
    ],
)
def test_files_are_tried_before_a_model_is_read(predict, folder, monkeypatch, flag, message):
    def too_late(*_):
        raise AssertionError("went on to read the model")

    monkeypatch.setattr("dpt_jax.cli.runs.load_without_tasks", too_late)
    before = runs.contents(folder)
    status, out, err = predict("--prompt=a/prompt.npy", flag)
    assert (status, out) == (2, [])
    assert message in err and len(err.splitlines()) == 1
    assert runs.contents(folder) == before
