"""`dpt demo --images`, in short."""

import json

import pytest

from dpt_jax.cli.main import main


@pytest.mark.slow
def test_the_demo_of_images_trains_prints_and_draws(tmp_path, capsys):
    arguments = ["demo", "--images", "--methods=probe,hidden", "--tasks=partial"]
    arguments += [f"--output={tmp_path}", "--gin.TRAIN_STEPS=4", "--gin.EVAL_PERIOD=2"]
    arguments += ["--gin.PERCENT=5", "--gin.BATCH_SIZE=8"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "hidden on partial: attention on the digit" in shown
    told = json.loads((tmp_path / "summary.json").read_text())
    # A head of ten classes on 64 numbers; five prompts for each of four layers, and a second head.
    head = 64 * 10 + 10
    assert told["methods"]["probe"]["trainable_parameters"] == head
    assert told["methods"]["hidden"]["trainable_parameters"] == 2 * head + 4 * 5 * 64
    assert len(told["attention"]["selected"]["prompts"]) == 4
    assert (tmp_path / "attention.png").read_bytes()[:4] == b"\x89PNG"


def test_a_method_or_a_set_that_is_not_there(capsys):
    assert main(["demo", "--images", "--methods=lora"]) == 2
    assert "there are probe, shallow, deep" in capsys.readouterr().err
    assert main(["demo", "--images", "--tasks=cifar"]) == 2
    assert "there are partial, embedded" in capsys.readouterr().err
