"""dpt tasks: what there is, what examples become, how long they are."""

import json

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from dpt_jax.cli.main import main
from dpt_jax.data import lengths
from dpt_jax.demo import BACKBONE_DIR, VOCABULARY
from tests.support import processes, toy_tasks

RANKED = "--module=tests.support.ranked_tasks"


def call(capsys, *argv):
    """Status, standard output and standard error of `dpt tasks`."""
    capsys.readouterr()
    status = main(["tasks", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_list_has_tasks_and_mixtures_with_their_splits(capsys):
    status, out, _ = call(capsys, "--json", RANKED)
    assert status == 0
    found = {row["name"]: row for row in json.loads(out)}
    assert found["toy_x"] == {
        "name": "toy_x",
        "kind": "task",
        "splits": {"train": 90, "validation": 20},
    }
    assert found["toy_mixture"]["splits"] == {"train": 180, "validation": 40}
    assert found["toy_mixture"]["tasks"] == ["toy_x", "toy_z"]
    status, out, _ = call(capsys, RANKED)
    [line] = [line for line in out.splitlines() if line.split()[:1] == ["ranked_mixture"]]
    assert "train 180, validation 40" in line and "ranked_two, ranked_varied" in line


def test_tasks_of_texts_are_listed_and_shown_with_the_models_vocabulary(
    capsys, tmp_path, monkeypatch
):
    (tmp_path / "own_texts.py").write_text(
        "from dpt_jax import TextTask\n"
        "def rows(split):\n"
        "    yield {'inputs': 'a cup', 'targets': 'yes', 'id': 7}\n"
        "    yield {'inputs': 'a dog', 'targets': 'no', 'id': 8}\n"
        "TEXT_TASKS = [TextTask('own_texts', rows)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own, model = "--module=own_texts", f"--model={BACKBONE_DIR}"
    status, out, _ = call(capsys, "--json", own)
    assert status == 0
    splits = {"train": None, "validation": None}
    assert {"name": "own_texts", "kind": "task", "splits": splits} in json.loads(out)
    status, out, _ = call(capsys, "show", "own_texts", own, model, "--n=1", "--json")
    assert status == 0
    [shown] = json.loads(out)
    tokens = [*SentencePieceProcessor(str(VOCABULARY)).encode("a cup"), 1]
    assert shown["raw"] == {"inputs": "a cup", "targets": "yes", "id": 7}
    assert shown["inputs"] == {"text": "a cup", "tokens": tokens, "count": len(tokens)}
    status, _, err = call(capsys, "show", "own_texts", own)
    assert status == 2 and "--model is None" in err and "vocabulary=" in err


def test_without_a_module_the_packages_own_tasks_are_listed(capsys):
    status, out, _ = call(capsys, "--json")
    assert status == 0
    names = {row["name"] for row in json.loads(out)}
    assert {"demo_entailment", "demo_superglue"} <= names
    # Its draws are not rows of their own, and not among the names that a wrong one is told.
    _, out, _ = call(capsys)
    [line] = [line for line in out.splitlines() if line.split()[:1] == ["demo_questions"]]
    assert "_k{8,16,32}_s{0,1,2,3,4} _p{1,3,10,30,100}_s{0,1,2,3,4}" in line
    assert "demo_questions_p" not in out
    _, _, err = call(capsys, "show", "nope")
    assert "Registered: demo_entailment, demo_questions," in err and "_k8" not in err


@pytest.mark.slow
def test_show_prints_raw_rows_text_and_tokens(capsys):
    argv = ("show", "ranked_varied", RANKED, "--n=2", "--split=validation")
    status, out, _ = call(capsys, *argv, "--json")
    assert status == 0
    rows = list(toy_tasks.examples("validation"))
    found = json.loads(out)
    assert len(found) == 2
    for i, (example, row) in enumerate(zip(found, rows, strict=False)):
        assert (example["task"], example["split"]) == ("ranked_varied", "validation")
        assert example["raw"] == row | {"idx": 100 + i, "candidates": example["candidates"]}
        for feature in ("inputs", "targets"):
            ids = [b + 3 for b in row[feature].encode()] + [1]
            assert example[feature] == {"text": row[feature], "tokens": ids, "count": len(ids)}
    status, out, _ = call(capsys, *argv)
    ids = " ".join(str(b + 3) for b in rows[0]["inputs"].encode())
    assert f"inputs: {rows[0]['inputs']}\n" in out
    assert f"inputs, {len(rows[0]['inputs']) + 1} tokens: {ids} 1\n" in out
    assert "candidates: no | yes | maybe so\n" in out


def test_show_of_a_mixture_shows_each_of_its_tasks(capsys):
    status, out, _ = call(capsys, "show", "toy_mixture", RANKED, "--n=1", "--json")
    assert [example["task"] for example in json.loads(out)] == ["toy_x", "toy_z"]


@pytest.mark.slow
def test_rows_that_give_no_example_or_several_are_shown_as_they_are(capsys):
    status, out, _ = call(
        capsys, "show", "toy_filtered", "--module=tests.support.odd_tasks", "--n=3", "--json"
    )
    assert status == 0
    rows = [r for r in toy_tasks.examples("train") if r["targets"] == "yes"]
    found = json.loads(out)
    assert [example["raw"]["inputs"] for example in found] == [
        rows[0]["inputs"],
        rows[0]["inputs"],
        rows[1]["inputs"],
    ]


def test_lengths_are_counted_with_eos_and_padding_as_the_trainer_pads(capsys):
    status, out, _ = call(capsys, "lengths", "toy_x", RANKED, "--json")
    assert status == 0
    found = json.loads(out)
    counts = sorted(len(row["inputs"]) + 1 for row in toy_tasks.examples("train"))
    statistics = found["tasks"]["toy_x"]["inputs"]
    assert statistics["mean"] == round(sum(counts) / 90, 1)
    for percent, value in statistics["percentiles"].items():
        # No more than so many per cent are longer, and a token less would not do.
        assert sum(n <= value for n in counts) >= 90 * int(percent) / 100
        assert int(percent) == 0 or sum(n <= value - 1 for n in counts) < 90 * int(percent) / 100
    assert [row["num_buckets"] for row in found["padding"]] == [1, 2, 4, 8, 16]
    for row in found["padding"]:
        assert len(row["buckets"]) <= row["num_buckets"]
        padded = sum(min(b for b in row["buckets"] if b >= n) for n in counts)
        assert (row["real_tokens"], row["padded_tokens"]) == (sum(counts), padded)
        assert row["ratio"] == pytest.approx(padded / sum(counts), abs=1e-4)
    ratios = [row["ratio"] for row in found["padding"]]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] > ratios[-1] >= 1


def test_percentiles_are_lengths_that_occur():
    assert lengths.percentiles([5, 1, 3, 900])[50] == 3
    assert lengths.percentiles(np.asarray([7]))[0] == 7
    assert lengths.percentiles(range(1, 101))[95] == 95


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["shw", "toy_x"], "dpt tasks has no 'shw'; it takes list, show, lengths. Nearest: show"),
        (["show"], "Name a task: dpt tasks show NAME"),
        (["list", "toy_x"], "dpt tasks show toy_x"),
        (["show", "toy_mixtur", RANKED], "no task or mixture 'toy_mixtur'. Nearest: toy_mix"),
        (["show", "toy_x", RANKED, "--n=0"], "--n is 0"),
        (
            ["lengths", "toy_x", RANKED, "--split=validaton"],
            "no split 'validaton'; it has train, validation. Nearest: validation",
        ),
        (["--module=tests.support.toy_taks"], "Cannot import 'tests.support.toy_taks'"),
        (
            ["show", "toy_broken", "--module=tests.support.odd_tasks"],
            "Split 'train' of task 'toy_broken': row 2 of toy.jsonl has no 'label'",
        ),
        (
            ["lengths", "toy_broken", "--module=tests.support.odd_tasks"],
            "Split 'train' of task 'toy_broken': row 2 of toy.jsonl has no 'label'",
        ),
        (
            ["lengths", "toy_lost_vocabulary", "--module=tests.support.odd_tasks"],
            "The vocabulary of 'toy_lost_vocabulary' cannot be read",
        ),
    ],
)
def test_bad_names_are_one_message(capsys, argv, message):
    status, out, err = call(capsys, *argv)
    assert status == 2 and out == ""
    assert err.startswith("dpt tasks: error: ") and message in err
    assert "Traceback" not in err and len(err) < 600


@pytest.mark.slow
def test_a_pipe_gets_whole_lines_without_colours():
    argv = ["tasks", "show", "toy_x", "--module=tests.support.toy_tasks", "--n=1"]
    done = processes.run("dpt_jax", *argv, COLUMNS="30")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "\x1b" not in done.stdout
    row = next(iter(toy_tasks.examples("train")))
    ids = " ".join(str(b + 3) for b in row["inputs"].encode())
    assert f"tokens: {ids} 1\n" in done.stdout
