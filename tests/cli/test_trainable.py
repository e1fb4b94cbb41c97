"""What else a run has trained beside its prompt: the commands that use the run use that, too."""

import json

import pytest

from dpt_jax.cli.main import main
from tests.support import runs


@pytest.mark.slow
def test_the_commands_use_what_a_run_has_trained_of_its_t5(tmp_path, backbone, capsys):
    run = tmp_path / "run"
    macros = {"RunConfig.trainable": "(prompt|decoder)/.*", "LEARNING_RATE_PEAK": 0.02}
    assert main(runs.arguments(run, backbone, TRAIN_STEPS=24, EVAL_PERIOD=24, **macros)) == 0
    expected = json.loads((run / "summary.json").read_text())["metrics"]
    assert expected["toy_x"]["accuracy"] > 0.3

    def said(*argv):
        capsys.readouterr()
        assert main([*map(str, argv)]) == 0
        return capsys.readouterr()

    assert json.loads(said("evaluate", f"--model_dir={run}").out)["metrics"] == expected
    # The T5 alone, without what the run has trained.
    assert (
        json.loads(said("evaluate", f"--model_dir={run}", "--no_prompt").out)["metrics"] != expected
    )
    (predictions,) = (run / "predictions").glob("*.jsonl")
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(row["inputs"] + "\n" for row in rows))
    answers = said("predict", f"--model_dir={run}", f"--input={texts}").out.splitlines()
    assert answers == [row["prediction"] for row in rows]
    assert (
        "attention.json" in said("attention", run, "--rows=4", f"--output={tmp_path / 'seen'}").out
    )
    assert (
        "(prompt|decoder)/.*"
        in said("export", f"--model_dir={run}", f"--output={tmp_path / 'a.npy'}").err
    )
