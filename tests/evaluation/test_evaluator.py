"""Which metric names the best step, and metrics that are not numbers."""

import json

import numpy as np
import pytest

from dpt_jax.data.examples import load_split
from dpt_jax.data.tasks import get_provider
from dpt_jax.errors import InputError
from dpt_jax.evaluation import evaluator
from dpt_jax.files import json_dumps
from dpt_jax.problems import text
from dpt_jax.training import trainer
from dpt_jax.training.problem import TaskResult
from tests.support import odd_tasks, runs, toy_tasks

RANKED = {"mixture_or_task_module": "tests.support.ranked_tasks"}


def strictly(text):
    """Parses JSON as other languages do: without NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_best_metric_that_does_not_exist_is_refused_before_anything_is_compiled(
    backbone, tmp_path, monkeypatch
):
    def too_late(*_):
        raise AssertionError("went on to compile and train")

    monkeypatch.setattr(trainer.Run, "__init__", too_late)
    config = runs.run_config(tmp_path / "run", backbone, best_metric="acuracy")
    with pytest.raises(InputError) as error:
        text.train(config)
    assert "'toy_x' has no metric 'acuracy'; it has accuracy. Nearest: accuracy." in str(
        error.value
    )
    assert "--gin.BEST_METRIC" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_metric_functions_that_refuse_perfect_outputs_are_not_asked_again(backbone, tmp_path):
    config = runs.run_config(
        tmp_path,
        backbone,
        mixture_or_task_name="ranked_untestable",
        best_metric="accuracy",
        train_steps=1,
        num_buckets=1,
        **RANKED,
    )
    assert text.train(config)["best_value"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("best_metric", "best"), [("accuracy", 1), ("nothing", None)])
def test_a_metric_that_is_not_a_number_is_null_in_files(
    backbone, tmp_path, capsys, best_metric, best
):
    config = runs.run_config(
        tmp_path,
        backbone,
        mixture_or_task_name="ranked_undefined",
        best_metric=best_metric,
        train_steps=2,
        eval_period=1,
        num_buckets=1,
        scoring="rank",
        **RANKED,
    )
    returned = text.train(config)
    lines = [strictly(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["split"] == "validation"]
    assert [line["nothing"] for line in evaluated] == [None, None]
    assert all(0 <= line["accuracy"] <= 1 for line in evaluated)
    summary = strictly((tmp_path / "summary.json").read_text())
    assert summary == returned
    assert summary["metrics"]["ranked_undefined"]["nothing"] is None
    assert (summary["best_value"] is None) == (best is None)
    # A run that is finished says the same again.
    assert text.train(config) == summary


def test_strict_json_writes_what_any_parser_reads():
    value = {
        "a": np.float32("nan"),
        "b": [float("inf"), -1.5, True, None],
        "c": np.asarray([[1, 2]]),
        "d": {"e": b"\xc3\xa9"},
        3: (np.int64(4), "x"),
    }
    assert strictly(json_dumps(value)) == {
        "a": None,
        "b": [None, -1.5, True, None],
        "c": [[1, 2]],
        "d": {"e": "é"},
        "3": [4, "x"],
    }


def test_the_best_value_is_a_metrics_mean_over_the_tasks():
    results = [
        TaskResult("a", {"f1": 0.5, "accuracy": 0.75}, []),
        TaskResult("b", {"accuracy": 0.25}, []),
    ]
    assert evaluator.best_value(results) == 0.375
    assert evaluator.best_value(results, "accuracy") == 0.5
    with pytest.raises(InputError, match="'b' has no metric 'f1'; it has accuracy"):
        evaluator.best_value(results, "f1")


# One number per task: accuracy, but F1 for MultiRC and ReCoRD.
EIGHT = {
    "dpt_boolq": {"accuracy": 10.0, "invalid": 1.0},
    "dpt_cb": {"accuracy": 20.0, "mean_3class_f1": 99.0},
    "dpt_copa": {"accuracy": 30.0},
    "dpt_multirc": {"f1": 40.0, "exact_match": 99.0},
    "dpt_record": {"em": 99.0, "f1": 50.0},
    "dpt_rte": {"accuracy": 60.0},
    "dpt_wic": {"accuracy": 70.0},
    "dpt_wsc": {"accuracy": 80.0},
}


def eight(suffix=""):
    return [TaskResult(task + suffix, m, []) for task, m in EIGHT.items()]


@pytest.mark.parametrize("suffix", ["", "_digits", "_k8_s0"])
def test_the_eight_tasks_are_compared_by_superglues_average(suffix):
    results = eight(suffix)
    assert evaluator.averages(results) == {"superglue_average": 45.0}
    assert evaluator.best_value(results) == 45.0
    assert evaluator.best_value(results, "superglue_average") == 45.0
    with pytest.raises(InputError, match="superglue_averag'.* Nearest: superglue_average"):
        evaluator.best_value(results, "superglue_averag")


def test_other_tasks_have_no_such_average():
    results = eight()[:7]
    assert evaluator.averages(results) == {}
    with pytest.raises(InputError, match="no metric 'superglue_average'"):
        evaluator.best_value(results, "superglue_average")
    assert evaluator.averages([*results, TaskResult("dpt_mine", {"f1": 1.0}, [])]) == {}


@pytest.mark.slow
def test_a_mixtures_average_is_logged_and_kept(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluator.Evaluator, "__call__", lambda self, params: eight())
    config = runs.run_config(
        tmp_path,
        backbone,
        mixture_or_task_name="toy_mixture",
        train_steps=1,
        num_buckets=1,
    )
    summary = text.train(config)
    assert summary["best_value"] == 45.0
    assert summary["metrics"] == EIGHT | {"toy_mixture": {"superglue_average": 45.0}}
    [line] = [line for line in runs.metrics(tmp_path) if line["task"] == "toy_mixture"]
    assert (line["split"], line["superglue_average"]) == ("validation", 45.0)


def test_what_overlength_decides_is_not_cut_by_seqio_before():
    task = get_provider("toy_cut", odd_tasks.__name__)
    lengths = {"inputs": 20, "targets": 6}
    long = sum(len(row["inputs"]) + 1 > 20 for row in toy_tasks.examples("train"))
    with pytest.raises(InputError, match=f"{long} of 90 examples"):
        load_split(task, "train", lengths)
    [kept] = load_split(task, "train", lengths, "drop")
    assert len(kept.inputs) == 90 - long
    assert all(row[-1] == 1 and 1 not in row[:-1] for row in kept.inputs)
