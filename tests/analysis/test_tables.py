"""Tables and claims of made-up results, against numbers worked out by hand or by numpy."""

import csv
import io

import numpy as np
import pytest

from dpt_jax.analysis import claims, tables
from dpt_jax.errors import InputError

REPORT = {
    "title": "Made up",
    "score": "accuracy, %",
    "scale": 100,
    "rows": ["method"],
    "columns": "task",
    "seeds": ["seed"],
    "metric": None,
    "names": {"wic": "WiC"},
    "figures": {},
    "claims": [],
}
SCORES = {
    ("PT", "rte"): [0.5, 0.6, 0.7],
    ("PT", "wic"): [0.4, 0.4, 0.4],
    ("DPT", "rte"): [0.8, 0.7, 0.9],
    ("DPT", "wic"): [0.6, 0.5, 0.4],
}
PARAMETERS = {"PT": 2560, "DPT": 592}


def result(method, task, seed, value, **more):
    return {
        "sweep": "made_up",
        "point": f"method={method},task={task},seed={seed}",
        "axes": {"method": method, "task": task, "seed": seed},
        "status": "done",
        "value": value,
        "trainable_parameters": PARAMETERS[method],
        "train_seconds": 2.0,
    } | more


def made_up():
    return [
        result(method, task, seed, value)
        for (method, task), values in SCORES.items()
        for seed, value in enumerate(values)
    ]


def deviation(values):
    return np.std(values, ddof=1)


def test_a_cell_is_the_mean_and_the_deviation_over_seeds():
    table = tables.table(made_up(), REPORT)
    assert table.header == ["method", "parameters", "rte", "WiC", "Avg."]
    average = 100 * np.mean([SCORES["DPT", "rte"], SCORES["DPT", "wic"]], axis=0)
    assert table.rows[1] == [
        "DPT",
        "592",
        f"80.00 ± {deviation([80, 70, 90]):.2f}",
        f"50.00 ± {deviation([60, 50, 40]):.2f}",
        f"{average.mean():.2f} ± {deviation(average):.2f}",
    ]
    assert "over 3 seeds" in table.caption and table.notes == []


def test_a_failed_point_is_in_the_table_and_leaves_the_others():
    rows = made_up()
    for row in rows[:3]:
        row |= {"status": "failed", "value": None, "error": "Out of memory.\nTraceback"}
    rows[3] |= {"status": "not run", "value": None}
    table = tables.table(rows, REPORT)
    assert table.rows[0] == ["PT", "2,560", "failed", "40.00 ± 0.00 (2 of 3)", "failed"]
    assert table.rows[1][-1].startswith("65.00 ± ")
    assert table.notes[0] == "method=PT,task=rte,seed=0 and 2 more failed: Out of memory."
    assert table.notes[-1] == "1 of 12 points: not run."


def test_rows_with_a_task_each_have_no_average():
    rows = [
        row
        for row in made_up()
        if (row["axes"]["method"] == "PT") == (row["axes"]["task"] == "rte")
    ]
    table = tables.table(rows, REPORT)
    assert table.header[-2:] == ["rte", "WiC"]
    assert [row[-2:] for row in table.rows] == [["60.00 ± 10.00", "–"], ["–", "50.00 ± 10.00"]]


def test_an_average_takes_only_seeds_that_have_every_task():
    rows = made_up()
    rows[9] |= {"status": "unfinished", "value": None}  # DPT, wic, seed 0.
    cell = tables.average_of(rows[6:], REPORT)
    assert cell.values == pytest.approx([60.0, 65.0])
    assert str(cell).endswith("(2 of 3)")


def test_one_seed_has_no_deviation():
    rows = [row for row in made_up() if row["axes"]["seed"] == 0]
    table = tables.table(rows, REPORT)
    assert table.rows[0][2] == "50.00"
    assert "one seed" in table.caption


def test_markdown_escapes_what_would_break_a_table():
    report = REPORT | {"names": {"PT": "P|T"}}
    text = tables.table(made_up(), report).markdown()
    lines = text.splitlines()
    assert lines[0] == "| method | parameters | rte | wic | Avg. |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert lines[2].startswith("| P\\|T | 2,560 |")
    cells = next(csv.reader(io.StringIO(lines[3]), delimiter="|"))
    assert len(cells) == 7


def test_an_undefined_score_is_not_taken_for_a_number():
    rows = made_up()
    rows[0] |= {"value": None}
    table = tables.table(rows, REPORT)
    assert table.rows[0][2].endswith("(2 of 3)")
    assert "the metric is not a number: method=PT,task=rte,seed=0" in table.notes[0]


def claim(**fields):
    return {"text": "As the paper says."} | fields


def test_a_claim_compares_averages_and_shows_both():
    verdict = claims.judge(
        claim(better={"method": "DPT"}, than={"method": "PT"}), made_up(), REPORT
    )
    assert verdict.verdict == claims.HOLDS
    assert verdict.numbers == "65.00 ± 5.00 against 50.00 ± 5.00"
    verdict = claims.judge(
        claim(better={"method": "DPT"}, than={"method": "PT"}, by=20), made_up(), REPORT
    )
    assert verdict.verdict == claims.FAILS


def test_a_claim_says_when_seeds_differ_more_than_methods():
    verdict = claims.judge(
        claim(better={"method": "DPT"}, than={"method": "PT"}, where={"task": "wic"}),
        made_up(),
        REPORT,
    )
    assert verdict.verdict == claims.HOLDS
    assert verdict.numbers == "50.00 ± 10.00 against 40.00 ± 0.00"
    close = made_up()
    for row in close:
        row["value"] = 0.5 + 0.1 * row["axes"]["seed"] - 0.01 * (row["axes"]["method"] == "DPT")
    verdict = claims.judge(claim(better={"method": "DPT"}, than={"method": "PT"}), close, REPORT)
    assert verdict.verdict == claims.FAILS
    assert verdict.numbers.endswith("closer than their deviation over seeds")


def test_a_claim_without_results_cannot_be_told():
    rows = [row | {"status": "not run", "value": None} for row in made_up()]
    verdict = claims.judge(claim(better={"method": "DPT"}, than={"method": "PT"}), rows, REPORT)
    assert verdict.verdict == claims.OPEN
    assert claims.judge(claim(falls="numerical_rank"), rows, REPORT).verdict == claims.OPEN


def test_a_curve_falls_when_its_mean_over_runs_ends_lower():
    rows = [
        result("PT", "rte", seed, 0.5, curves={"numerical_rank": [[1, 2, 3], values]})
        for seed, values in enumerate([[20, 30, 10], [20, 20, 13]])
    ]
    verdict = claims.judge(claim(falls="numerical_rank"), rows, REPORT)
    assert verdict.verdict == claims.HOLDS
    assert "20.0 at the first evaluation, 11.5 at the last, 2 runs" in verdict.numbers
    rows[0]["curves"]["numerical_rank"][1][-1] = 40
    assert claims.judge(claim(falls="numerical_rank"), rows, REPORT).verdict == claims.FAILS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"better": {"method": "DPT"}}, "either better and than, or falls"),
        ({"falls": "x", "then": 1}, "has then"),
        ({"falls": "x", "where": {"methd": 1}}, "methd, which is no axis"),
    ],
)
def test_a_claim_that_is_not_written_right_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        claims.judge(claim(**fields), made_up(), REPORT)
