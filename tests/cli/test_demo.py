"""dpt demo on the committed backbone: one task, few steps."""

import json

import pytest

from dpt_jax.cli.main import main

STEPS = {"vanilla": 200, "decomposed": 200, "residual": 10, "fine_tuning": 10}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    for method, steps in STEPS.items():
        assert main(arguments(folder / method, method, steps)) == 0
    return folder


def arguments(folder, method, steps):
    return [
        "demo",
        f"--methods={method}",
        "--tasks=demo_questions",
        f"--output={folder}",
        f"--gin.TRAIN_STEPS={steps}",
        f"--gin.EVAL_PERIOD={steps}",
    ]


def summary(output, method):
    return json.loads((output / method / "summary.json").read_text())


@pytest.mark.slow
def test_prompts_learn_what_the_backbone_alone_cannot_answer(output):
    for method in ("vanilla", "decomposed"):
        found = summary(output, method)
        assert found["no_prompt"] == {"demo_questions": 0.0}
        accuracy = found["methods"][method]["accuracy"]["demo_questions"]
        assert accuracy >= found["chance"]["demo_questions"] + 0.3


@pytest.mark.slow
def test_every_method_trains_the_parameters_it_should(output):
    counts = {
        method: summary(output, method)["methods"][method]["trainable_parameters"]
        for method in STEPS
    }
    p, d, b, hidden = 20, 128, 4, 400
    assert counts == {
        "vanilla": p * d,
        "decomposed": b * (p + d),
        "residual": p * d + d * hidden + hidden + hidden * d + d + 2 * d,
        "fine_tuning": 1_263_872,
    }
    assert counts["decomposed"] <= counts["vanilla"] / 4


@pytest.mark.slow
def test_a_second_demo_trains_nothing_and_shows_the_same(output, capfd):
    before = summary(output, "decomposed")
    capfd.readouterr()
    assert main(arguments(output / "decomposed", "decomposed", STEPS["decomposed"])) == 0
    shown, said = capfd.readouterr()
    assert "is finished" in said and "steps/s" not in said
    assert "592" in shown and "majority class" in shown and "no prompt" in shown
    assert summary(output, "decomposed") == before
    assert (output / "decomposed" / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"


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
