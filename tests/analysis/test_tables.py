"""Tables and claims of made-up results, against numbers worked out by hand or by numpy."""

import csv
import io
import itertools

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


def of_seeds(method, values):
    return [result(method, "rte", seed, value) for seed, value in enumerate(values)]


DPT_OVER_PT = {"better": {"method": "DPT"}, "than": {"method": "PT"}}


def test_a_claim_compares_averages_and_shows_both():
    verdict = claims.judge(claim(**DPT_OVER_PT), made_up(), REPORT)
    assert verdict.verdict == claims.HOLDS
    assert verdict.numbers == (
        "65.00 ± 5.00 against 50.00 ± 5.00; difference 15.00, from 10.00 to 25.00 (3 seeds)"
    )
    for by, expected in ((9, claims.HOLDS), (20, claims.UNDECIDED), (26, claims.FAILS)):
        verdict = claims.judge(claim(**DPT_OVER_PT, by=by), made_up(), REPORT)
        assert verdict.verdict == expected


def test_a_claim_is_decided_by_pairs_of_one_seed():
    """Seeds differ by 10 points and methods by 1 in every seed: unpaired, nothing can be told."""
    base = [0.5, 0.6, 0.7, 0.8]
    rows = of_seeds("PT", base) + of_seeds("DPT", [x + 0.01 for x in base])
    assert claims.judge(claim(**DPT_OVER_PT), rows, REPORT).verdict == claims.HOLDS
    crossed = of_seeds("PT", base) + of_seeds("DPT", [x + 0.01 for x in reversed(base)])
    verdict = claims.judge(claim(**DPT_OVER_PT), crossed, REPORT)
    assert verdict.verdict == claims.UNDECIDED
    assert "difference 1.00" in verdict.numbers


def test_seeds_without_a_partner_are_not_compared():
    rows = of_seeds("PT", [0.5, 0.5, 0.9]) + of_seeds("DPT", [0.6, 0.6])
    verdict = claims.judge(claim(**DPT_OVER_PT), rows, REPORT)
    assert verdict.verdict == claims.HOLDS
    assert "difference 10.00, from 10.00 to 10.00 (2 seeds)" in verdict.numbers


def test_one_seed_decides_nothing():
    rows = of_seeds("PT", [0.5]) + of_seeds("DPT", [0.9])
    verdict = claims.judge(claim(**DPT_OVER_PT), rows, REPORT)
    assert verdict.verdict == claims.UNDECIDED
    assert verdict.numbers.endswith("difference 40.00, one seed")


def test_the_interval_is_that_of_all_resamples():
    """Of three values there are 27 resamples: the quantiles can be read off."""
    values = [1.0, 2.0, 6.0]
    means = sorted(np.mean(drawn) for drawn in itertools.product(values, repeat=3))
    low, high = claims.bootstrap_interval(values, level=0.8, resamples=200_000)
    # The tenth part of 27 is the third smallest mean, which it shares with no other.
    assert low == pytest.approx(means[2])
    assert high == pytest.approx(means[-3])
    many = np.random.default_rng(1).normal(size=400)
    low, high = claims.bootstrap_interval(list(many))
    half = 1.96 * many.std() / 20
    np.testing.assert_allclose([low, high], many.mean() + [-half, half], atol=0.1 * half)


def test_a_claim_without_results_cannot_be_told():
    rows = [row | {"status": "not run", "value": None} for row in made_up()]
    verdict = claims.judge(claim(**DPT_OVER_PT), rows, REPORT)
    assert verdict.verdict == claims.OPEN
    assert claims.judge(claim(falls="numerical_rank"), rows, REPORT).verdict == claims.OPEN


def test_a_curve_falls_when_it_ends_lower_in_most_seeds():
    rows = [
        result("PT", "rte", seed, 0.5, curves={"numerical_rank": [[1, 2, 3], values]})
        for seed, values in enumerate([[20, 30, 10], [20, 20, 13]])
    ]
    verdict = claims.judge(claim(falls="numerical_rank"), rows, REPORT)
    assert verdict.verdict == claims.HOLDS
    assert "20.0 at the first evaluation, 11.5 at the last, 2 runs" in verdict.numbers
    assert verdict.numbers.endswith("fall 8.50, from 7.00 to 10.00 (2 seeds)")
    rows[0]["curves"]["numerical_rank"][1][-1] = 40
    verdict = claims.judge(claim(falls="numerical_rank"), rows, REPORT)
    assert verdict.verdict == claims.UNDECIDED


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
