"""`--model`, `--task`, `--recipe` and so on say what gin files and bindings say at length."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from dpt_jax import gin_utils, interop
from dpt_jax.cli.main import main
from dpt_jax.demo import VOCABULARY
from dpt_jax.models import Transformer
from dpt_jax.problems import text
from dpt_jax.training.config import RunConfig
from tests.support import runs

NETWORKS = {
    "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "t5_1_1": {"mlp_activations": ("gelu", "linear")},
    "umt5": {"mlp_activations": ("gelu", "linear"), "relpos_bias_per_layer": True},
}
INCLUDED = {"t5_1_0": "t5_1_0", "t5_1_1": "t5_1_1", "umt5": "t5_1_1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each kind in a folder, with the gin file that somebody would write for it."""
    found = {}
    for name, changes in NETWORKS.items():
        config = dataclasses.replace(runs.T5, **changes)
        tokens = np.zeros((1, 2), np.int32)
        shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), *[tokens] * 3)
        params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes["params"])
        folder = tmp_path_factory.mktemp(name)
        interop.save_backbone(folder / "model", config, params)
        values = runs.SIZES | ({"relpos_bias_per_layer": True} if name == "umt5" else {})
        (folder / "mine.gin").write_text(
            "from __gin__ import dynamic_registration\nfrom dpt_jax import models\n"
            f"include 'models/{INCLUDED[name]}.gin'\nEMBED_DIM = {runs.WIDTH}\nmodels.T5Config:\n"
            + "".join(f"  {key} = {value}\n" for key, value in values.items())
        )
        found[name] = folder
    return found


@pytest.fixture
def configured(monkeypatch):
    """The config.gin that a command line gives, before anything is prepared."""

    def run(*argv):
        found = []

        def take(config: RunConfig, gin_config):
            config.make_optimizer(1)
            found.append(gin_config())
            return {}

        monkeypatch.setattr(text, "train", take)
        assert main(["train", *map(str, argv)]) == 0
        return found[0]

    return run


LONG = ("runs/prompt_train.gin", "mine.gin", "recipes/released.gin")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("short", "files", "macros"),
    [
        (["--prompt=vanilla"], ["prompts/vanilla.gin"], {}),
        (["--prefix=decomposed", "--gin.BOTTLENECK=3"], ["prefixes/decomposed.gin"],
         {"PROMPT": None, "BOTTLENECK": 3}),
        (["--prefix=free", "--prompt=vanilla", "--gin.RunConfig.eval_split=test"],
         ["prompts/vanilla.gin", "prefixes/free.gin"], {"RunConfig.eval_split": "test"}),
    ],
)  # fmt: skip
def test_the_config_is_that_of_the_long_form(configured, folders, name, short, files, macros):
    folder = folders[name]
    ours = configured(
        f"--model={folder / 'model'}", "--task=demo_questions", "--recipe=released",
        "--output=runs/rte", *short,
    )  # fmt: skip
    values = {
        "INITIAL_CHECKPOINT_PATH": str(folder / "model"),
        "MIXTURE_OR_TASK_NAME": "demo_questions",
        "MIXTURE_OR_TASK_MODULE": "dpt_jax.demo.text_tasks",
        "MODEL_DIR": "runs/rte",
    }
    theirs = configured(
        *(f"--gin_file={folder / f if f == 'mine.gin' else f}" for f in (*LONG, *files)),
        *(f"--gin.{key}={value!r}" for key, value in (values | macros).items()),
    )
    assert ours == theirs and "MODEL_DIR = 'runs/rte'" in ours


def test_superglue_takes_the_vocabulary_of_the_models_folder(configured, folders, tmp_path):
    model = shutil.copytree(folders["t5_1_0"] / "model", tmp_path / "model")
    argv = [f"--model={model}", "--task=dpt_rte", "--output=x"]
    file = model / "spiece.model"
    shutil.copy(VOCABULARY, file)
    ours = configured(*argv, "--gin.SUPERGLUE_DIR=/data/superglue")
    theirs = configured(
        *argv[::2], "--gin_file=tasks/superglue.gin", "--gin.MIXTURE_OR_TASK_NAME='dpt_rte'",
        "--gin.SUPERGLUE_DIR='/data/superglue'", f"--gin.VOCABULARY={str(file)!r}",
    )  # fmt: skip
    assert ours == theirs
    assert gin_utils.bindings()["VOCABULARY"] == repr(str(file))
    # ByT5's folder has no file; a task of another module has no such macro.
    file.unlink()
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    configured(*argv)
    assert gin_utils.bindings()["VOCABULARY"] == "'bytes'"
    configured(*argv, "--gin.MIXTURE_OR_TASK_MODULE=my.tasks")
    assert "VOCABULARY" not in gin_utils.bindings()
    # That of the package is named by its gin file.
    configured("--model=demo", *argv[1:])
    assert gin_utils.bindings()["VOCABULARY"] == repr(str(VOCABULARY))


NEEDED = ["--model=demo", "--task=demo_questions", "--output=never"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*NEEDED, "--recipe=papr"], "--recipe is 'papr', but there is no recipes/papr.gin. Near"),
        ([*NEEDED, "--recipe=papr"], "Nearest: paper."),
        ([*NEEDED, "--prompt=decompsed"], "Nearest: decomposed,"),
        ([*NEEDED, "--prefix=zzz"], "There are decomposed, deep_shared, free,"),
        ([*NEEDED, "--model=dmo"], "it takes a folder, or one of models/*.gin. Nearest: demo"),
        ([*NEEDED, "--model=no/t5"], "There is no folder no/t5. Set --model to the folder"),
        (NEEDED[1:], "--model is missing"),
        (NEEDED[::2], "--task is missing"),
        (NEEDED[:2], "--output is missing"),
        ([*NEEDED, "--task=demo_question"], "Nearest: demo_questions,"),
    ],
)
def test_what_is_wrong_with_them_is_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_mistyped_flag_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        main(["train", *NEEDED, "--recipee=paper"])
    assert "unrecognized argument: --recipee=paper. Nearest: --recipe" in capsys.readouterr().err


def test_fine_tuning_is_a_recipe(configured):
    configured(*NEEDED, "--recipe=finetune", "--gin.TRAIN_STEPS=7")
    config = gin_utils.build(RunConfig)
    assert (config.prompt, config.prefix, config.train_steps) == (None, None, 7)
    # After another recipe, that one says how long to train.
    configured(*NEEDED, "--recipe=released", "--gin_file=recipes/finetune.gin")
    config = gin_utils.build(RunConfig)
    assert (config.prompt, config.epochs, config.overlength) == (None, 100, "truncate")


def test_a_method_of_the_working_directory_has_a_name_too(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mine.gin").write_text("PROMPT_LENGTH = 7\n")
    assert "PROMPT_LENGTH = 7" in configured(*NEEDED, "--prompt=mine")
    assert "PROMPT_LENGTH = 7" in configured(*NEEDED, "--prompt=prompts/mine.gin")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("runs/rte", "'runs/rte'"),
        ("gs://bucket/lr=0.1,b=3" , None),
        ("gs://bucket/lr=0.1", "'gs://bucket/lr=0.1'"),
        ("~/my runs", "'~/my runs'"),
        ("2026/run", "'2026/run'"),
        ("'quoted'", "'quoted'"),
        ("None", "None"),
        (".5", "0.5"),
    ],
)  # fmt: skip
def test_a_bare_text_needs_no_quotes(written, read):
    def parse():
        gin_utils.parse(["models/demo.gin"], [f"INITIAL_CHECKPOINT_PATH = {written}"])
        return gin_utils.bindings()["INITIAL_CHECKPOINT_PATH"]

    if read is None:
        with pytest.raises(ValueError, match="it cannot be read"):
            parse()
    else:
        assert parse() == read
