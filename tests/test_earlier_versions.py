"""What earlier versions wrote, and what users wrote for them, still works.

`tests/data/version_0_1` holds what that version's `dpt train` had written after 4 steps of the toy
task, without the TensorBoard events, and the backbone, whose random weights would depend on JAX's
version.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from dpt_jax import gin_utils
from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.training.config import RunConfig
from tests.support import runs

OLD = pathlib.Path(__file__).parent / "data" / "version_0_1"
RUN = OLD / "run"
# What that version's training had at step 6, where it went on without a break.
LOSS, GRAD_NORM = 25.49963244876346, 0.3493846654891968
PROMPT_AT_6 = [[-0.82633686, 0.3911792, 4.523449], [2.1442657, -0.843524, 3.7589452]]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The run, beside the backbone it was trained with."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_its_config_still_says_what_earlier_versions_said():
    text = (RUN / "config.gin").read_text()
    assert "\nCONVERTED_CHECKPOINT_CACHE = None\n" in text
    assert "\nconfig.RunConfig.converted_checkpoint_cache = %CONVERTED_CHECKPOINT_CACHE\n" in text


@pytest.mark.slow
def test_a_run_is_evaluated_exported_inspected_and_asked(run, capsys):
    assert main(["evaluate", "--model_dir=run", "--step=4", "--predictions=again"]) == 0
    (evaluated,) = (run.parent / "again").iterdir()
    assert evaluated.read_text() == (RUN / "predictions" / "toy_x_4.jsonl").read_text()

    assert main(["export", "--model_dir=run", "--step=4", "--output=exported"]) == 0
    np.testing.assert_array_equal(np.load("exported/prompt.npy"), runs.prompt(RUN, 4))

    capsys.readouterr()
    assert main(["inspect", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["details"]["steps with a saved prompt"] == [2, 4]

    records = [json.loads(line) for line in evaluated.read_text().splitlines()][:3]
    pathlib.Path("questions").write_text(
        "".join(json.dumps({"inputs": record["inputs"]}) + "\n" for record in records)
    )
    arguments = ["--input=questions", "--output=answers"]
    assert main(["predict", "--model_dir=run", "--step=4", *arguments]) == 0
    answers = [json.loads(line) for line in pathlib.Path("answers").read_text().splitlines()]
    assert [answer["output"] for answer in answers] == [record["output"] for record in records]


@pytest.mark.slow
def test_a_run_goes_on_from_its_own_config_as_if_nothing_had_changed(run):
    assert main(["train", "--gin_file=run/config.gin", "--gin.TRAIN_STEPS=6"]) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert lines[:4] == (RUN / "metrics.jsonl").read_text().splitlines()
    last = next(line for line in runs.metrics(run)[4:] if line["split"] == "train")
    assert (last["step"], last["loss"], last["grad_norm"]) == (
        6,
        pytest.approx(LOSS, rel=1e-5),
        pytest.approx(GRAD_NORM, rel=1e-4),
    )
    np.testing.assert_allclose(runs.prompt(run, 6)[:2, :3], PROMPT_AT_6, rtol=1e-4)
    assert "converted_checkpoint_cache" not in (run / "config.gin").read_text().lower()


# What config.gin had of the gin files prompts/*_from_*.gin.
FROM_FILE = """
PROMPT = @prompts.VanillaPrompt()
PROMPT/initializers.from_file.path = %PROMPT_FILE
PROMPT/initializers.from_file.read = @interop.prompt_reader()
PROMPT/interop.prompt_reader.flag = 'PROMPT_FILE'
PROMPT/prompts.VanillaPrompt.prompt_init = @initializers.from_file()
"""
FROM_SVD = """
PROMPT = @prompts.DecomposedPrompt()
PROMPT/prompts.DecomposedPrompt.a_init = @a/initializers.truncated_svd()
PROMPT/prompts.DecomposedPrompt.b_init = @b/initializers.truncated_svd()
PROMPT/prompts.DecomposedPrompt.bottleneck = 4
a/interop.prompt_reader.flag = 'PROMPT_FILE'
b/interop.prompt_reader.flag = 'PROMPT_FILE'
a/initializers.truncated_svd.factor = 'A'
a/initializers.truncated_svd.prompt = %PROMPT_FILE
a/initializers.truncated_svd.read = @interop.prompt_reader()
b/initializers.truncated_svd.factor = 'B'
b/initializers.truncated_svd.prompt = %PROMPT_FILE
b/initializers.truncated_svd.read = @interop.prompt_reader()
"""
FROM_FACTORS = FROM_SVD.replace("truncated_svd.prompt", "from_factors.path")
FROM_FACTORS = FROM_FACTORS.replace("truncated_svd", "from_factors")
FROM_FACTORS = FROM_FACTORS.replace("prompt_reader", "factors_reader")
# A user's own file, which reads numpy files alone.
BY_HAND = """
PROMPT = @prompts.VanillaPrompt()
prompts.VanillaPrompt.prompt_init = @initializers.from_file()
initializers.from_file.path = 'prompt.npy'
"""


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (FROM_FILE, "prompt.npy"),
        (FROM_SVD, "prompt.npy"),
        (FROM_FACTORS, "prompt_params.npz"),
        (BY_HAND, "prompt.npy"),
    ],
    ids=["from file", "truncated svd", "from factors", "by hand"],
)
def test_gin_files_whose_initializers_read_a_file(run, text, file):
    rng = np.random.default_rng(0)
    factors = {
        "A": rng.normal(size=(4, 4)).astype("f4"),
        "B": rng.normal(size=(4, 16)).astype("f4"),
    }
    np.savez("prompt_params.npz", **factors)
    np.save("prompt.npy", factors["A"] @ factors["B"])
    imports = ["from dpt_jax import prompts", "from dpt_jax.prompts import initializers"]
    if "interop" in text:
        imports.append("from dpt_jax import interop")
    sizes = "prompts.SoftPrompt.length = 4\nprompts.SoftPrompt.embed_dim = 16\n"
    method = "Vanilla" if "Vanilla" in text else "Decomposed"
    pathlib.Path("old.gin").write_text(
        "\n".join(["from __gin__ import dynamic_registration", *imports, text])
        + sizes.replace("SoftPrompt", f"{method}Prompt")
    )
    bindings = [] if text is BY_HAND else [f"PROMPT_FILE = '{file}'"]
    gin_utils.parse(["run/config.gin", "old.gin"], bindings)
    prompt = gin_utils.build(RunConfig).prompt
    folded = prompt.fold(prompt.initialize(jax.random.key(0)))
    np.testing.assert_allclose(folded, np.load("prompt.npy"), atol=1e-5)
    if text is FROM_FACTORS:
        params = prompt.initialize(jax.random.key(0))
        np.testing.assert_array_equal(params["A"], factors["A"])


def test_sweeps_were_part_of_the_analysis(tmp_path):
    from dpt_jax.sweeps import Sweep

    (tmp_path / "points.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom dpt_jax.analysis import sweeps\n"
        "sweeps.Sweep.name = 'mine'\n"
    )
    (tmp_path / "sweep.gin").write_text(f"include '{tmp_path / 'points.gin'}'\n")
    gin_utils.parse([str(tmp_path / "sweep.gin")])
    assert (
        gin_utils.build(Sweep, gin_files=["runs/demo.gin"], grid={"RANDOM_SEED": [0]}).name
        == "mine"
    )


def test_a_users_file_may_still_say_that_there_are_no_converted_copies(run):
    text = "from __gin__ import dynamic_registration\nfrom dpt_jax.training import config\n"
    block = "config.RunConfig:\n  converted_checkpoint_cache = None\n  beam_size = 3\n"
    pathlib.Path("mine.gin").write_text(text + block + "CONVERTED_CHECKPOINT_CACHE = None")
    gin_utils.parse(["run/config.gin", "mine.gin"])
    assert gin_utils.build(RunConfig).beam_size == 3


def test_a_run_that_kept_a_converted_copy_is_read(run):
    saved = pathlib.Path("run/config.gin")
    text = saved.read_text()
    changed = text.replace(
        "\nCONVERTED_CHECKPOINT_CACHE = None\n", "\nCONVERTED_CHECKPOINT_CACHE = 'x'\n"
    )
    assert changed != text
    saved.write_text(changed)
    gin_utils.parse(["run/config.gin"])
    assert gin_utils.build(RunConfig).initial_checkpoint_path == "backbone"


@pytest.mark.parametrize("given", ["file", "included file", "flag"])
def test_a_folder_of_converted_copies_is_refused_with_what_took_its_place(run, given):
    setting = "CONVERTED_CHECKPOINT_CACHE = 'copies'"
    pathlib.Path("mine.gin").write_text(setting + "\n")
    pathlib.Path("outer.gin").write_text("include 'mine.gin'\n")
    files = {"file": ["mine.gin"], "included file": ["outer.gin"], "flag": []}[given]
    with pytest.raises(InputError, match=r"CONVERTED_CHECKPOINT_CACHE is set to 'copies'.*convert"):
        gin_utils.parse(["run/config.gin", *files], [setting] if given == "flag" else [])
