"""dpt demo on the committed backbone: one task, few steps."""

import json

import pytest

from dpt_jax import gin_utils
from dpt_jax.cli import demo
from dpt_jax.cli.main import main
from dpt_jax.prompts import needs_residual_norm
from dpt_jax.training.config import RunConfig

# Two demos: one whose prompts learn, and one that shows that the other methods run.
STEPS = {"vanilla,decomposed": 60, "prefix,residual,fine_tuning": 2}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    for methods in STEPS:
        assert main(arguments(folder, methods)) == 0
    return folder


def arguments(folder, methods):
    return [
        "demo",
        f"--methods={methods}",
        "--tasks=demo_questions",
        f"--output={folder / methods}",
        f"--gin.TRAIN_STEPS={STEPS[methods]}",
        f"--gin.EVAL_PERIOD={STEPS[methods]}",
        # A quarter of the demo's, and enough for one task.
        "--gin.BATCH_SIZE=8",
    ]


def summary(output, methods):
    return json.loads((output / methods / "summary.json").read_text())


@pytest.mark.slow
def test_prompts_learn_what_the_backbone_alone_cannot_answer(output):
    found = summary(output, "vanilla,decomposed")
    assert found["no_prompt"] == {"demo_questions": 0.0}
    for method in ("vanilla", "decomposed"):
        accuracy = found["methods"][method]["accuracy"]["demo_questions"]
        assert accuracy >= found["chance"]["demo_questions"] + 0.3


@pytest.mark.slow
def test_every_method_trains_the_parameters_it_should(output):
    counts = {
        method: found["trainable_parameters"]
        for methods in STEPS
        for method, found in summary(output, methods)["methods"].items()
    }
    p, d, b, hidden = 20, 128, 4, 400
    assert counts == {
        "vanilla": p * d,
        "decomposed": b * (p + d),
        "residual": p * d + d * hidden + hidden + hidden * d + d + 2 * d,
        "prefix": 3 * p * d,
        "fine_tuning": 1_263_872,
    }
    assert counts["decomposed"] <= counts["vanilla"] / 4


@pytest.mark.slow
def test_a_second_demo_trains_nothing_and_shows_the_same(output, capfd):
    methods = "vanilla,decomposed"
    before = summary(output, methods)
    capfd.readouterr()
    assert main(arguments(output, methods)) == 0
    shown, said = capfd.readouterr()
    assert "is finished" in said and "steps/s" not in said
    assert "592" in shown and "majority class" in shown and "no prompt" in shown
    assert summary(output, methods) == before
    assert (output / methods / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--methods=decomposd", "--methods names 'decomposd'; there are vanilla, decomposed"),
        ("--tasks=demo_wordsens", "Nearest: demo_wordsense"),
        ("--methods=,", "--methods is empty"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(tmp_path, capfd, flag, message):
    assert main(["demo", flag, f"--output={tmp_path / 'demo'}"]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("method", ["vanilla", "decomposed", "residual"])
def test_the_fast_recipe_keeps_the_demos_sizes_and_starts_at_the_measured_norm(method):
    files, own = demo.RECIPES["fast"][method]
    bindings = [*demo.bindings_of(own, "demo_questions", 7), "MODEL_DIR = 'run'"]
    gin_utils.parse(["runs/demo.gin", *files], bindings)
    config = gin_utils.build(RunConfig)
    assert needs_residual_norm(config.prompt) and config.prompt.length == 20
    assert getattr(config.prompt, "bottleneck", 4) == 4
    assert config.optimizer.__name__ == "orthogonal" and config.clip_norm is None
    assert (config.train_steps, config.batch_size, config.random_seed) == (200, 32, 7)
    assert config.task_feature_lengths["inputs"] == 36 and config.eval_batch_size == 100
