"""Figures of made-up results: what is drawn is what the results say."""

import dataclasses

import numpy as np
import pytest

from dpt_jax.analysis import figures
from dpt_jax.analysis.report import Report
from dpt_jax.errors import InputError

TASKS, STEPS = ("rte", "wic"), [10, 20, 30]
AXES = ["method", "BOTTLENECK", "task", "seed"]


def result(method, b, task, seed):
    value = 0.1 * b + 0.05 * seed + (0.02 if method == "DPT" else 0) + (0.3 if task == "wic" else 0)
    return {
        "point": f"{method}{b}{task}{seed}",
        "axes": {"method": method, "BOTTLENECK": b, "task": task, "seed": seed},
        "status": "done",
        "value": value,
        "trainable_parameters": 148 * b if method == "DPT" else 2560,
        "train_seconds": 1.0,
        "train_loss": 2.0 - value,
        "curves": {
            "score": [STEPS, [value / 3, value / 2, value]],
            "positive_entries": [STEPS, [20, 19, 18 - seed]],
            "negative_entries": [STEPS, [0, 1, 2 + seed]],
            "numerical_rank": [STEPS, [20, 19, 18 - seed]],
        },
        "singular_values": [4.0, 2.0, 1.0, 1e-9],
    }


ROWS = [
    result(method, b, task, seed)
    for method in ("PT", "DPT")
    for b in (1, 2, 4)
    for task in TASKS
    for seed in (0, 1)
]


def report(**fields):
    return dataclasses.asdict(Report(title="Made up", scale=100, **fields).resolved(AXES))


def values(task, method="PT", b=1):
    return [
        100 * row["value"]
        for row in ROWS
        if (row["axes"]["task"], row["axes"]["method"], row["axes"]["BOTTLENECK"])
        == (task, method, b)
    ]


def lines(axes):
    return {line.get_label(): np.asarray(line.get_data(), float) for line in axes.get_lines()}


def shown(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def test_score_draws_the_mean_over_seeds_for_every_task_and_the_average():
    options = {"x": "BOTTLENECK", "lines": "method", "log": True}
    panels = shown(figures.score(ROWS, report(), options))
    assert [axes.get_title() for axes in panels] == ["rte", "wic", "average"]
    for axes, tasks in zip(panels, (["rte"], ["wic"], TASKS), strict=True):
        assert set(lines(axes)) == {"PT", "DPT"}
        for method, (x, y) in lines(axes).items():
            assert x.tolist() == [1, 2, 4]
            wanted = [np.mean([values(t, method, b) for t in tasks]) for b in (1, 2, 4)]
            np.testing.assert_allclose(y, wanted)
        assert axes.get_xscale() == "log" and axes.get_xlabel() == "BOTTLENECK"


def test_the_band_is_from_the_smallest_to_the_largest_seed():
    panels = shown(figures.score(ROWS, report(), {"x": "BOTTLENECK", "lines": "method"}))
    band = panels[0].collections[0].get_paths()[0].vertices
    at_one = band[band[:, 0] == 1][:, 1]
    assert at_one.min() == pytest.approx(min(values("rte")))
    assert at_one.max() == pytest.approx(max(values("rte")))


def test_the_loss_is_drawn_as_it_is_and_an_implied_axis_makes_no_panels():
    rows = [row | {"axes": row["axes"] | {"rate": row["axes"]["method"]}} for row in ROWS]
    implied = Report(title="Made up", scale=100, implied=["rate"]).resolved([*AXES, "rate"])
    options = {"x": "BOTTLENECK", "lines": "method"}
    panels = shown(figures.loss(rows, dataclasses.asdict(implied), options))
    assert [axes.get_title() for axes in panels] == ["rte", "wic", "average"]
    assert {axes.get_yscale() for axes in panels} == {"log"}
    wanted = [2.0 - np.mean(values("rte", "DPT", b)) / 100 for b in (1, 2, 4)]
    np.testing.assert_allclose(lines(panels[0])["DPT"][1], wanted)


def test_parameters_puts_every_row_at_its_count():
    axes = shown(figures.parameters(ROWS, report(), {"lines": "method"}))[0]
    assert axes.get_xscale() == "log"
    x, y = axes.get_lines()[3].get_data()  # After the line and the two caps of PT.
    assert list(x) == [148, 296, 592]
    assert y[0] == pytest.approx(np.mean([values(t, "DPT", 1) for t in TASKS]))


@pytest.mark.parametrize("counts", [[2960, 3700], [2500, 2560, 2600, 29_600], [512]])
def test_labels_of_the_parameters_do_not_touch(counts):
    rows = [
        ROWS[0] | {"axes": ROWS[0]["axes"] | {"BOTTLENECK": count}, "trainable_parameters": count}
        for count in counts
    ]
    figure = figures.parameters(rows, report(), {"lines": "method"})
    figure.draw_without_rendering()
    axis = shown(figure)[0].xaxis
    labels = [t for t in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)) if t.get_text()]
    assert labels[0].get_text() == str(min(counts))
    boxes = [label.get_window_extent() for label in labels]
    assert all(one.x1 < other.x0 for one, other in zip(boxes, boxes[1:], strict=False))


def test_curves_draw_the_mean_at_every_evaluation():
    panels = shown(figures.curves(ROWS, report(), {"lines": "method"}))
    assert [axes.get_title() for axes in panels][:2] == [
        "BOTTLENECK = 1, rte",
        "BOTTLENECK = 1, wic",
    ]
    x, y = lines(panels[0])["PT"]
    assert x.tolist() == STEPS
    assert y[-1] == pytest.approx(np.mean(values("rte")))


def test_a_level_is_a_dashed_line_at_its_columns_own_height():
    levels = {"chance": {"rte": 0.5, "wic": 0.4}}
    options = {"lines": "method", "levels": levels}
    for axes in shown(figures.curves(ROWS, report(), options)):
        task = axes.get_title().rpartition(", ")[2]
        assert set(lines(axes)) == {"PT", "DPT", "chance"}
        assert set(lines(axes)["chance"][1]) == {100 * levels["chance"][task]}


def test_the_probe_draws_both_signs_and_the_rank_from_zero():
    panels = shown(figures.probe(ROWS, report(), {}))
    drawn = lines(panels[0])
    assert drawn["positive entries of Σ"][1].tolist() == [20, 19, 17.5]
    assert drawn["negative entries of Σ"][1].tolist() == [0, 1, 2.5]
    assert drawn["numerical rank of U relu(Σ) V"][1].tolist() == [20, 19, 17.5]
    assert panels[0].get_ylim()[0] == 0


def test_spectra_leave_out_rounding():
    panels = shown(figures.spectra(ROWS, report(), {"lines": "method"}))
    x, y = lines(panels[0])["PT"]
    assert x.tolist() == [1, 2, 3] and y.tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(("smallest", "plain"), [(1.0, True), (0.02, False)])
def test_less_than_a_decade_of_a_spectrum_has_plain_numbers(smallest, plain):
    rows = [row | {"singular_values": [4.0, 2.0, smallest]} for row in ROWS]
    figure = figures.spectra(rows, report(), {"lines": "method"})
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    texts = {label.get_text() for label in axis.get_ticklabels(which="both")} - {""}
    assert axis.get_scale() == "log"
    assert ({"0.4", "0.6", "0.8", "1.0"} <= texts) == plain
    assert any("10^" in text for text in texts) != plain


@pytest.mark.slow
def test_every_figure_says_over_how_many_seeds():
    for kind, options in (("score", {"x": "BOTTLENECK"}), ("curves", {}), ("rank", {})):
        figure = figures.KINDS[kind](ROWS, report(), options)
        assert "mean over 2 seeds" in figure.get_supxlabel()
    one = [row for row in ROWS if row["axes"]["seed"] == 0]
    assert figures.probe(one, report(), {}).get_supxlabel() == "one seed"


@pytest.mark.slow
def test_figures_are_written_as_png_and_pdf(tmp_path):
    wanted = {"score": {"x": "BOTTLENECK"}, "spectra": {}}
    paths = list(figures.write_all(tmp_path, ROWS, report(figures=wanted)))
    assert paths == [tmp_path / "score.png", tmp_path / "spectra.png"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_results_without_a_score_draw_nothing(tmp_path):
    rows = [row | {"status": "failed", "value": None} for row in ROWS]
    assert list(figures.write_all(tmp_path, rows, report(figures={"curves": {}}))) == []


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"scores": {}}, "no figure 'scores'; there are score"),
        ({"score": {}}, "needs its axis"),
        ({"score": {"x": "BOTLENECK"}}, "x = 'BOTLENECK'; the sweep has the axes method"),
        ({"rank": {"lines": "method"}}, "it takes none"),
        ({"curves": {"line": "method"}}, "has the options line"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(wanted, message):
    with pytest.raises(InputError, match=message):
        figures.check(report(figures=wanted), AXES)


def test_a_legend_of_many_lines_stays_inside_its_figure():
    rows = [result("DPT", b, task, 0) for b in range(100_000, 100_007) for task in TASKS]
    drawn = figures.curves(rows, report(), {"lines": "BOTTLENECK"})
    (legend,) = drawn.legends
    assert len(legend.get_texts()) == 7
    assert legend.get_window_extent().width <= drawn.bbox.width


def test_directions_are_counted_in_whole_numbers():
    panel = shown(figures.spectra(ROWS, report(), {"lines": "method"}))[0]
    assert all(tick == int(tick) for tick in panel.get_xticks())
