"""Points that another sweep's results have chosen."""

import json

import pytest

from dpt_jax.errors import InputError
from dpt_jax.sweeps import chosen_points, loading


def write(folder, *rows):
    names = ("method", "LEARNING_RATE_PEAK", "seed")
    lines = [
        {
            "sweep": "rates",
            "point": f"{axes}",
            "axes": dict(zip(names, axes, strict=True)),
            "status": status,
            "value": value,
        }
        for *axes, status, value in rows
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text)
    return folder


def test_the_best_mean_over_seeds_is_chosen_for_each_method(tmp_path):
    folder = write(
        tmp_path,
        *(("PT", 0.3, 0, "done", 0.9), ("PT", 0.3, 1, "done", 0.1)),
        *(("PT", 0.1, 0, "done", 0.6), ("PT", 0.1, 1, "done", 0.6)),
        # What fails once is out, and of equals the smaller is taken.
        *(("DPT", 0.3, 0, "done", 1.0), ("DPT", 0.3, 1, "failed", None)),
        *(("DPT", 0.2, 0, "done", 0.5), ("DPT", 0.2, 1, "done", 0.5)),
        *(("DPT", 0.1, 0, "done", 0.5), ("DPT", 0.1, 1, "done", 0.5)),
    )
    assert chosen_points(folder) == [
        {"method": "PT", "LEARNING_RATE_PEAK": 0.1},
        {"method": "DPT", "LEARNING_RATE_PEAK": 0.1},
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (None, "has no results.jsonl, by which LEARNING_RATE_PEAK is chosen. Run that sweep first"),
        ([("PT", 0.1, 0, "unfinished", None)], "1 of 1 points that are not done"),
        ([("PT", 0.1, 0, "failed", None)], "the runs of .* have failed for every LEARNING_RATE"),
    ],
)
def test_what_cannot_be_chosen_from_is_said(tmp_path, rows, reason):
    if rows is not None:
        write(tmp_path, *rows)
    with pytest.raises(InputError, match=reason):
        chosen_points(tmp_path)


def test_an_axis_that_the_sweep_lacks_is_said(tmp_path):
    folder = write(tmp_path, ("PT", 0.1, 0, "done", 0.5))
    with pytest.raises(InputError, match="a sweep without the axis BOTTLENECK"):
        chosen_points(folder, axis="BOTTLENECK")


def test_a_sweep_takes_its_points_from_anothers_results(tmp_path):
    write(tmp_path, *(("deep share", rate, 0, "done", rate) for rate in (0.1, 0.2)))
    bindings = ["RATES = @sweeps.chosen_points()", f"chosen_points.folder = {str(tmp_path)!r}"]
    sweep, others = loading.load(["sweeps/demo_sharing.gin"], bindings, [])
    assert not others
    assert sweep.axes["method"] == ["deep share"] and sweep.axes["LEARNING_RATE_PEAK"] == [0.2]
