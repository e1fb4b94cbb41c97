"""What a sweep's gin file stands for: its points, and what is wrong with one."""

import pathlib
import re

import pytest

from dpt_jax import gin_utils
from dpt_jax.analysis.report import Report
from dpt_jax.errors import InputError
from dpt_jax.sweeps import Point, Sweep, loading
from dpt_jax.sweeps.definition import select
from dpt_jax.sweeps.jobs import _alike
from dpt_jax.training.config import RunConfig


def names(points):
    return [point.name for point in points]


def test_a_grid_is_every_combination_and_its_axes_are_bindings():
    sweep = Sweep(
        "b",
        gin_files=("runs/demo.gin",),
        bindings={"TRAIN_STEPS": 5},
        grid={"BOTTLENECK": [2, 5], "RANDOM_SEED": (0, 1)},
    )
    points = sweep.expand()
    assert names(points) == [
        "BOTTLENECK=2,RANDOM_SEED=0",
        "BOTTLENECK=2,RANDOM_SEED=1",
        "BOTTLENECK=5,RANDOM_SEED=0",
        "BOTTLENECK=5,RANDOM_SEED=1",
    ]
    assert points[3] == Point(
        "BOTTLENECK=5,RANDOM_SEED=1",
        {"BOTTLENECK": 5, "RANDOM_SEED": 1},
        ("runs/demo.gin",),
        ("TRAIN_STEPS = 5", "BOTTLENECK = 5", "RANDOM_SEED = 1"),
    )


def test_a_list_of_points_is_combined_with_the_grid():
    sweep = Sweep(
        "pairs",
        points=[{"PROMPT_LENGTH": 6, "BOTTLENECK": 1}, {"PROMPT_LENGTH": 10, "BOTTLENECK": 2}],
        grid={"RANDOM_SEED": [0, 1]},
    )
    assert [tuple(point.axes.values()) for point in sweep.expand()] == [
        (6, 1, 0),
        (6, 1, 1),
        (10, 2, 0),
        (10, 2, 1),
    ]


def test_an_axis_in_braces_fills_texts_and_is_no_binding_itself():
    sweep = Sweep(
        "k",
        gin_files=("models/t5_1_0_{size}.gin",),
        bindings={"MIXTURE_OR_TASK_NAME": "dpt_rte_k{k}_s{seed}", "RANDOM_SEED": "{seed}"},
        grid={"size": ["base"], "k": [8], "seed": [3]},
    )
    [point] = sweep.expand()
    assert point.gin_files == ("models/t5_1_0_base.gin",)
    # A text that is one axis alone keeps the number's type.
    assert point.bindings == ("MIXTURE_OR_TASK_NAME = 'dpt_rte_k8_s3'", "RANDOM_SEED = 3")


def test_a_case_brings_its_files_and_bindings():
    cases = {
        "method": {
            "PT": {"gin_files": ["prompts/vanilla.gin"], "bindings": {"BATCH_SIZE": 8}},
            "FT": {"bindings": {"PROMPT": None, "OPTIMIZER": "@optax.adafactor"}},
        }
    }
    sweep = Sweep(
        "m", bindings={"BATCH_SIZE": 16}, cases=cases, grid={"method": ["PT", "FT"], "X": [0.5]}
    )
    one, other = sweep.expand()
    assert one.gin_files == ("prompts/vanilla.gin",)
    assert one.bindings == ("BATCH_SIZE = 8", "X = 0.5")
    assert other.bindings == (
        "BATCH_SIZE = 16",
        "PROMPT = None",
        "OPTIMIZER = @optax.adafactor",
        "X = 0.5",
    )


def test_bindings_of_the_command_line_come_last():
    [point] = Sweep("b", bindings={"X": 1}, grid={"Y": [2]}).expand(["X = 3"])
    assert point.bindings == ("X = 1", "Y = 2", "X = 3")


def test_values_are_written_as_gin_reads_them():
    bindings = {"LENGTHS": {"inputs": 64}, "MESH": (-1, 1), "ONE": (1,), "NONE": (), "L": [True]}
    [point] = Sweep("b", bindings=bindings, grid={"Y": [2]}).expand()
    assert point.bindings[:5] == (
        "LENGTHS = {'inputs': 64}",
        "MESH = (-1, 1,)",
        "ONE = (1,)",
        "NONE = ()",
        "L = [True]",
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": {"B": [1, 1]}}, "has the point B = 1 twice"),
        (
            {"grid": {"B": [1, 2], "S": [0]}, "folder": "run{S}"},
            "same folder run0: B = 1 and B = 2. Add {B} to sweeps.Sweep.folder",
        ),
        ({"grid": {"T": ["a/b", "a-b"]}}, "same folder T=a-b: T = 'a/b' and T = 'a-b'"),
        ({}, "has no axes"),
        ({"grid": {"B": []}}, "grid has B = []"),
        ({"grid": {"B": "12"}}, "grid has B = '12'"),
        ({"grid": {"B": [1]}, "points": [{"B": 2}]}, "B is both in"),
        ({"points": [{"B": 2}, {"C": 2}]}, "different axes"),
        ({"grid": {"B": [1]}, "cases": {"C": {}}}, "cases has 'C', which is no axis"),
        (
            {"grid": {"m": ["DTP"]}, "cases": {"m": {"DPT": {}}}},
            "has the value 'DTP'; its cases are DPT. Nearest: DPT",
        ),
        ({"grid": {"m": ["D"]}, "cases": {"m": {"D": {"files": []}}}}, "has files; it takes gin_"),
        ({"grid": {"B": [object]}}, "The axis B has the value"),
        ({"grid": {"B": [1]}, "bindings": {"X": print}}, "binds X to"),
        ({"grid": {"B": ["x" * 300]}}, "shorter one, such as '{B}'"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(fields, message):
    with pytest.raises(InputError) as error:
        Sweep("odd", **fields).expand()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "takes"),
    [
        ("name", 5, "a text"),
        ("gin_files", "runs/demo.gin", "a list of texts"),
        ("gin_files", [5], "a list of texts"),
        ("bindings", ["A"], "values by name"),
        ("grid", ["BOTTLENECK"], "lists of values by axis"),
        ("grid", {1: [2]}, "lists of values by axis"),
        ("points", {"B": 2}, "a list of values by axis"),
        ("points", [1, 2], "a list of values by axis"),
        ("points", [{1: 2}], "a list of values by axis"),
        ("cases", {"m": ["a", "b"]}, "by axis and label the gin_files and bindings"),
        ("cases", {"m": {"a": None}}, "by axis and label"),
        ("cases", {"m": {"a": "prompts/vanilla.gin"}}, "by axis and label"),
        ("cases", {"m": {"a": {"gin_files": "prompts/vanilla.gin"}}}, "by axis and label"),
        ("cases", {"m": {"a": {"bindings": ["A"]}}}, "by axis and label"),
        ("folder", 5, "a text, or None"),
        ("report", "x", "@sweeps.Report()"),
        ("report", Report, "@sweeps.Report()"),
    ],
)
def test_a_field_of_another_type_is_refused(field, value, takes):
    with pytest.raises(InputError) as error:
        Sweep(**{"name": "odd", "grid": {"m": ["a"]}} | {field: value})
    assert f"sweeps.Sweep.{field} is {value!r}; it takes {takes}" in str(error.value)


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(InputError, match=r"sweeps.Report.scale is '100'; it takes a number"):
        Report(scale="100")


@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        ({"grid": {"B": [1]}}, ["MODEL_DIR = 'x'"]),
        ({"grid": {"B": [1]}}, ["RunConfig.model_dir = 'x'"]),
        ({"grid": {"B": [1]}, "bindings": {"MODEL_DIR": "x"}}, []),
        ({"grid": {"MODEL_DIR": ["x"]}}, []),
        ({"grid": {"m": ["D"]}, "cases": {"m": {"D": {"bindings": {"MODEL_DIR": "x"}}}}}, []),
    ],
)
def test_the_folders_of_points_are_not_bound(fields, extra):
    with pytest.raises(InputError, match="s binds .*= 'x', but every .* set --output"):
        Sweep("s", **fields).expand(extra)


def test_a_name_that_is_no_folder_is_refused():
    with pytest.raises(InputError, match="Change sweeps.Sweep.name"):
        Sweep("a/b", grid={"B": [1]})


def test_a_binding_of_the_command_line_that_is_an_axis_is_refused():
    with pytest.raises(InputError, match="--only BOTTLENECK=VALUE"):
        Sweep("b", grid={"BOTTLENECK": [1, 2]}).expand(["BOTTLENECK = 3"])


def test_only_takes_a_part_of_the_points():
    points = Sweep("b", grid={"b": [1, 2, 3], "s": [0, 1]}).expand()
    assert names(select(points, ["b=1,3", "s=1"])) == ["b=1,s=1", "b=3,s=1"]
    assert select(points, []) == points


def test_only_takes_values_with_commas():
    points = Sweep("b", grid={"mesh": [(1, 1, 1), (2, 1, 1)], "t": ["x,y", "x"]}).expand()
    [point] = select(points, ["mesh=(1, 1, 1)", "t=x,y"])
    assert point.axes == {"mesh": (1, 1, 1), "t": "x,y"}


@pytest.mark.parametrize(
    ("only", "message"),
    [("c=1", "an axis of the sweep: b"), ("b", "AXIS=VALUE"), ("b=4", "the sweep has b = 1, 2")],
)
def test_only_refuses_what_the_sweep_does_not_have(only, message):
    with pytest.raises(InputError) as error:
        select(Sweep("b", grid={"b": [1, 2]}).expand(), [only])
    assert message in str(error.value)


def test_a_report_finds_its_rows_columns_and_seeds():
    found = Report().resolved(["model", "method", "task", "seed"])
    assert (found.rows, found.columns, found.seeds) == (["model", "method"], "task", ["seed"])


def test_a_report_that_would_mix_points_in_a_cell_is_refused():
    with pytest.raises(InputError, match="BOTTLENECK"):
        Report(rows=["method"]).resolved(["method", "BOTTLENECK", "task"])
    with pytest.raises(InputError, match="names the axis 'methd'"):
        Report(rows=["methd"]).resolved(["method"])


def test_only_seed_rate_draw_and_bottleneck_may_differ_among_points_of_one_program():
    def point(task="'dpt_rte_k8_s0'", steps=5, seed=0, rate=0.3, b=2, files=("a.gin",)):
        values = (f"RANDOM_SEED = {seed}", f"LEARNING_RATE_PEAK = {rate}", f"BOTTLENECK = {b}")
        rest = (f"MIXTURE_OR_TASK_NAME = {task}", f"TRAIN_STEPS = {steps}")
        return Point("p", {}, files, (*values, *rest))

    alike = _alike(point())
    for other in (point(seed=1), point(rate=0.1), point(b=5), point(task="'dpt_rte_k8_s2'")):
        assert _alike(other) == alike
    for other in (
        point(steps=6),
        point(files=("b.gin",)),
        point(task="'dpt_rte_k16_s0'"),
        point(task="'dpt_cb_k8_s0'"),
    ):
        assert _alike(other) != alike
    assert _alike(point(task="'my_kind_s1x'")) != _alike(point(task="'my_kind_s2x'"))


def test_a_message_names_the_axis_in_place_of_the_flag_that_the_axis_sets():
    sweep = Sweep(
        "s",
        bindings={"MIXTURE_OR_TASK_NAME": "dpt_{task}_k{k}", "TRAIN_STEPS": 5},
        cases={"method": {"PT": {}, "DPT": {"bindings": {"PROMPT_FILE": "{task}.npy"}}}},
        grid={"method": ["PT", "DPT"], "k": [8, 16], "BOTTLENECK": [2]},
        points=[{"task": "rte"}, {"task": "cb"}],
    )
    task, k = "the axis task (sweeps.Sweep.points)", "the axis k (sweeps.Sweep.grid)"
    said = {
        "Change --gin.MIXTURE_OR_TASK_NAME, or": f"Change {task} and {k}, or",
        "Set --gin.BOTTLENECK.": "Set the axis BOTTLENECK (sweeps.Sweep.grid).",
        "Set --gin.PROMPT_FILE": f"Set the axis method (sweeps.Sweep.grid) and {task}",
        # What no axis sets, and a flag with a value, which is what was written.
        "Set --gin.TRAIN_STEPS or --gin.optax.adamw.b1.": None,
        "--gin.BOTTLENECK=2: no.": None,
    }
    for message, expected in said.items():
        assert sweep.in_terms_of_axes(message) == (expected or message)


def test_the_sweep_of_the_tutorial_has_the_demos_sizes(tmp_path):
    page = pathlib.Path(__file__).parents[2] / "docs" / "tutorials" / "sweeps.md"
    [text] = re.findall(r"```\n(from __gin__ .*?)```", page.read_text(), re.DOTALL)
    file = tmp_path / "my_sweep.gin"
    file.write_text(text)
    sweep, _ = loading.load([str(file)], [], [])
    point = sweep.expand()[0]
    gin_utils.parse(list(point.gin_files), [*point.bindings, "MODEL_DIR = ''"])
    prompt = gin_utils.build(RunConfig).prompt
    assert (prompt.length, prompt.bottleneck) == (20, 4)
