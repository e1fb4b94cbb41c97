"""Which metric names the best step, and metrics that are not numbers."""

import json

import numpy as np
import pytest

from dpt_jax.errors import InputError
from dpt_jax.training import evaluation, strict_json, trainer
from tests.support import runs

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

    monkeypatch.setattr(trainer._Run, "__init__", too_late)
    config = runs.run_config(tmp_path / "run", backbone, best_metric="acuracy")
    with pytest.raises(InputError) as error:
        trainer.train(config)
    assert "'toy_x' has no metric 'acuracy'; it has accuracy. Nearest: accuracy." in str(
        error.value
    )
    assert "--gin.BEST_METRIC" in str(error.value)
    assert not (tmp_path / "run").exists()


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
    assert trainer.train(config)["best_value"] == 0.0


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
    returned = trainer.train(config)
    lines = [strictly(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["split"] == "validation"]
    assert [line["nothing"] for line in evaluated] == [None, None]
    assert all(0 <= line["accuracy"] <= 1 for line in evaluated)
    summary = strictly((tmp_path / "summary.json").read_text())
    assert summary == returned
    assert summary["metrics"]["ranked_undefined"]["nothing"] is None
    assert (summary["best_value"] is None) == (best is None)
    # A run that is finished says the same again.
    assert trainer.train(config) == summary


def test_strict_json_writes_what_any_parser_reads():
    value = {
        "a": np.float32("nan"),
        "b": [float("inf"), -1.5, True, None],
        "c": np.asarray([[1, 2]]),
        "d": {"e": b"\xc3\xa9"},
        3: (np.int64(4), "x"),
    }
    assert strictly(strict_json.dumps(value)) == {
        "a": None,
        "b": [None, -1.5, True, None],
        "c": [[1, 2]],
        "d": {"e": "é"},
        "3": [4, "x"],
    }


def test_the_best_value_is_a_metrics_mean_over_the_tasks():
    results = [
        evaluation.TaskResult("a", {"f1": 0.5, "accuracy": 0.75}, []),
        evaluation.TaskResult("b", {"accuracy": 0.25}, []),
    ]
    assert evaluation.best_value(results) == 0.375
    assert evaluation.best_value(results, "accuracy") == 0.5
    with pytest.raises(InputError, match="'b' has no metric 'f1'; it has accuracy"):
        evaluation.best_value(results, "f1")
