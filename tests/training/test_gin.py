"""What the gin files and `--gin.NAME=VALUE` flags say, and what a run's config.gin says again."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpt_jax import gin_utils
from dpt_jax.errors import InputError
from dpt_jax.interop import save_prompt
from dpt_jax.prompts import ResidualNorm, SoftPrompt
from dpt_jax.training.config import RunConfig
from tests.support import runs

BINDINGS = [
    "MODEL_DIR = 'run'",
    "INITIAL_CHECKPOINT_PATH = 'backbone'",
    "MIXTURE_OR_TASK_NAME = 'toy_x'",
]
T5_SMALL = ["runs/prompt_train.gin", "models/t5_1_0_small.gin"]


def config_of(files, bindings=(), search=()):
    gin_utils.parse(files, [*BINDINGS, *bindings], search)
    return gin_utils.build(RunConfig)


def updates_of(config, steps, gradient=1.0):
    """How far the configuration's optimizer moves one number, which starts at 2, at each step."""
    optimizer = config.optimizer(config.learning_rate(steps))
    params, moved = {"A": jnp.float32(2.0)}, []
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update({"A": jnp.float32(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        moved.append(float(updates["A"]))
    return moved


def adamw(rates, weight_decay, gradient=1.0):
    """Loshchilov and Hutter (2019), algorithm 2, with Adam's usual constants."""
    x, m, v, moved = 2.0, 0.0, 0.0, []
    for t, rate in enumerate(rates, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        moved.append(-rate * (step + weight_decay * x))
        x += moved[-1]
    return moved


def test_the_paper_recipe_is_the_papers_text():
    config = config_of([*T5_SMALL, "recipes/paper.gin"])
    assert (config.epochs, config.train_steps, config.batch_size) == (100, None, 16)
    assert config.eval_period == "epoch" and config.clip_norm is None
    assert (config.prompt.length, config.prompt.embed_dim, config.prompt.bottleneck) == (
        100,
        512,
        10,
    )
    assert config.prompt.parameter_count() == 6120
    params = jax.jit(config.prompt.initialize)(jax.random.key(0))
    # Gaussian: 5,120 numbers of B with standard deviation 1, some beyond 3.
    assert 0.95 < np.std(params["B"]) < 1.05 and np.abs(params["B"]).max() > 3
    np.testing.assert_allclose(updates_of(config, 20), adamw([0.3] * 20, 1e-5), rtol=1e-5)


def test_the_released_recipe_is_the_released_codes():
    config = config_of([*T5_SMALL, "recipes/released.gin"])
    assert (config.epochs, config.train_steps, config.batch_size) == (100, None, 16)
    assert (config.clip_norm, config.eval_period, config.overlength) == (1.0, "epoch", "truncate")
    assert config.task_feature_lengths["inputs"] == 256
    params = jax.jit(config.prompt.initialize)(jax.random.key(0))
    for factor in params.values():
        assert 0.45 < np.abs(factor).max() <= 0.5
    # Up over a tenth of the steps, then down to zero.
    rates = [0.3 * i / 4 for i in range(4)] + [0.3 * (40 - i) / 36 for i in range(4, 40)]
    np.testing.assert_allclose(updates_of(config, 40), adamw(rates, 1e-5), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_fast_recipe_starts_at_the_measured_norm_and_keeps_it():
    config = config_of([*T5_SMALL, "recipes/fast.gin"])
    assert config.prompt.a_init == ResidualNorm("A") and config.prompt.b_init == ResidualNorm("B")
    assert (config.train_steps, config.batch_size, config.balanced_batches) == (200, 32, False)
    matrix = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    optimizer = config.optimizer(config.learning_rate(config.train_steps))
    state = optimizer.init(matrix)
    for _ in range(2):
        updates, state = optimizer.update(matrix[::-1], state, matrix)
    # The second of 20 steps of warm-up has the rate 0.1 / 20; the norm is kept, which shortens it.
    assert np.linalg.norm(updates) / np.linalg.norm(matrix) == pytest.approx(0.005, rel=0.2)
    other = config_of([*T5_SMALL, "recipes/fast.gin", "prompts/vanilla_measured.gin"])
    assert other.prompt.prompt_init == ResidualNorm()


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_flags_override_a_recipe(recipe):
    config = config_of(
        [*T5_SMALL, f"recipes/{recipe}.gin"],
        ["TRAIN_STEPS = 7", "BOTTLENECK = 3", "LEARNING_RATE_PEAK = 0.1", "BATCH_SIZE = 4"],
    )
    assert (config.train_steps, config.prompt.bottleneck, config.batch_size) == (7, 3, 4)
    assert max(float(config.learning_rate(10)(i)) for i in range(10)) == pytest.approx(0.1)


def test_any_optax_optimizer_can_be_named_on_the_command_line():
    config = config_of(
        [*T5_SMALL, "prompts/decomposed.gin"],
        [
            "EPOCHS = 1",
            "OPTIMIZER = @optax.lion",
            "optax.lion.weight_decay = 0.0",
            "optax.lion.b1 = 0.5",
        ],
    )
    # Lion moves by the sign of the gradient (Chen et al., 2023).
    np.testing.assert_allclose(updates_of(config, 3), [-0.3] * 3, rtol=1e-6)
    config = config_of(
        [*T5_SMALL, "prompts/decomposed.gin"], ["EPOCHS = 1", "OPTIMIZER = @optax.sgd"]
    )
    np.testing.assert_allclose(updates_of(config, 2, gradient=0.5), [-0.15] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    "files",
    [
        ["runs/finetune.gin", "models/t5_1_0_small.gin"],
        [*T5_SMALL, "recipes/finetune.gin"],
        [*T5_SMALL, "recipes/released.gin", "recipes/finetune.gin"],
    ],
)
def test_fine_tuning_trains_everything_with_adafactor(files):
    config = config_of(files, ["EPOCHS = 1"])
    assert config.prompt is None and config.trainable_pattern == ".*"
    assert "FactoredState" in str(config.optimizer(0.1).init({"A": jnp.zeros((256, 128))}))
    assert [float(config.learning_rate(9)(step)) for step in (0, 8)] == pytest.approx([1e-3] * 2)
    assert config.clip_norm is None


def test_the_recipe_for_fine_tuning_leaves_the_rest_as_it_was():
    config = config_of(["runs/demo.gin", "recipes/finetune.gin"])
    assert (config.train_steps, config.batch_size) == (700, 32)
    assert config.task_feature_lengths == {"inputs": 36, "targets": 6}
    config = config_of([*T5_SMALL, "recipes/released.gin", "recipes/finetune.gin"])
    assert (config.epochs, config.overlength) == (100, "truncate")


@pytest.mark.parametrize("model", ["models/t5_1_1_small.gin", "models/umt5_small.gin"])
def test_dtype_is_that_of_the_activations(model):
    files = ["runs/prompt_train.gin", model, "recipes/paper.gin"]
    assert config_of(files).model.dtype == jnp.float32
    assert config_of(files, ["DTYPE = bfloat16"]).model.dtype == jnp.bfloat16
    config = config_of([*files, "recipes/tpu.gin"])
    assert (config.model.dtype, config.frozen_dtype) == (jnp.bfloat16, "bfloat16")


def test_files_are_found_in_the_working_directory_and_in_search_paths(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.gin").write_text("BATCH_SIZE = 3\n")
    (tmp_path / "b.gin").write_text("include 'a.gin'\nEPOCHS = 2\n")
    monkeypatch.chdir(tmp_path)
    files = [*T5_SMALL, "prompts/vanilla.gin", "b.gin"]
    with pytest.raises(InputError, match="no gin file 'a.gin'"):
        config_of(files)
    assert config_of(files, search=["mine"]).batch_size == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optax.adamw.weight_deca = 1", "'weight_deca'"),
        ("optax.adamw.weight_decay = 1", "'optax' was not provided by an import statement"),
        ("import optax\nOPTIMIZER = @optax.lionn", "has no attribute lionn"),
        ("BATCH_SIZE = = 3", "mine.gin"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("import nothing_of_that_name", "found in the working directory and on PYTHONPATH"),
        ("BATCHSIZE = 3", "BATCHSIZE is set, but nothing uses it. Nearest: BATCH_SIZE"),
    ],
)
def test_a_mistake_in_a_users_gin_file(tmp_path, text, message):
    head = "from __gin__ import dynamic_registration\n"
    if "weight_deca =" in text:
        head += "import optax\n"
    (tmp_path / "mine.gin").write_text(head + text + "\n")
    with pytest.raises(InputError) as error:
        config_of([*T5_SMALL, "prompts/vanilla.gin", str(tmp_path / "mine.gin")])
    assert message in str(error.value)


PROMPTS = sorted(p.name for p in (gin_utils.gin_configs() / "prompts").glob("*.gin"))


def comparable(config):
    """A configuration as plain values; functions by what they give."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    fields["learning_rate"] = [float(config.learning_rate(30)(i)) for i in range(30)]
    fields["optimizer"] = updates_of(config, 5)
    prompt = fields["prompt"]
    if isinstance(prompt, SoftPrompt):
        table = np.random.default_rng(0).normal(size=(6000, runs.WIDTH)).astype(np.float32)
        from dpt_jax.prompts import bind_residual_norm, bind_vocabulary

        bound = bind_vocabulary(prompt, table, lambda text: list(text.encode()))
        values = bind_residual_norm(bound, lambda: 40.0).initialize(jax.random.key(0))
        fields["prompt"] = type(prompt), jax.tree.map(lambda x: np.asarray(x).tobytes(), values)
    return fields


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "bindings"),
    [
        *(([f"prompts/{name}"], ["EPOCHS = 3", "EVAL_BATCH_SIZE = 7"]) for name in PROMPTS),
        (["recipes/paper.gin"], ["OPTIMIZER = @optax.lion", "optax.lion.b1 = 0.5"]),
        (["recipes/released.gin"], ["FROZEN_DTYPE = 'bfloat16'", "MESH = (1, 1, -1)"]),
        (["runs/finetune.gin"], ["EPOCHS = 3"]),
        (["mine.gin"], []),
    ],
)
def test_config_gin_says_the_same_again(tmp_path, monkeypatch, backbone, files, bindings):
    monkeypatch.chdir(tmp_path)
    save_prompt(
        tmp_path / "p.npy", np.random.default_rng(1).normal(size=(100, runs.WIDTH)).astype("f4")
    )
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import optax\n"
        "include 'prompts/vanilla_from_prompt.gin'\n"
        "PROMPT_FILE = 'p.npy'\nSTEPS = 9\nTRAIN_STEPS = %STEPS\nOPTIMIZER = @optax.sgd\n"
    )
    if "from_prompt" in files[0]:
        bindings = [*bindings, "PROMPT_FILE = 'p.npy'"]
    if "from_factors" in files[0]:
        rng = np.random.default_rng(1)
        factors = {"A": rng.normal(size=(100, 10)), "B": rng.normal(size=(10, runs.WIDTH))}
        np.savez(tmp_path / "prompt_params.npz", **{k: v.astype("f4") for k, v in factors.items()})
        bindings = [*bindings, "PROMPT_FILE = 'prompt_params.npz'"]
    if "class_labels" in files[0]:
        bindings = [*bindings, "CLASS_LABELS = ('yes', 'no')"]
    tiny = str(backbone.parent / "tiny.gin")
    first = comparable(config_of(["runs/prompt_train.gin", tiny, *files], bindings))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.gin").write_text(gin_utils.operative_config())

    gin_utils.parse([str(tmp_path / "run" / "config.gin")])
    again = comparable(gin_utils.build(RunConfig))
    assert again == first


@pytest.mark.slow
def test_a_runs_config_is_read_by_another_process_from_another_folder(tmp_path, backbone):
    """Nothing that this process has registered by the way may be needed."""
    tiny = str(backbone.parent / "tiny.gin")
    config_of(
        ["runs/prompt_train.gin", tiny, "recipes/released.gin"], ["OPTIMIZER = @optax.lion"]
    ).optimizer(0.1)
    (tmp_path / "config.gin").write_text(gin_utils.operative_config())
    code = (
        "from dpt_jax import gin_utils; from dpt_jax.training.config import RunConfig\n"
        f"gin_utils.parse([{str(tmp_path / 'config.gin')!r}])\n"
        "c = gin_utils.build(RunConfig); print(c.optimizer.__name__, c.prompt.bottleneck, c.epochs)"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["lion", "10", "100"], done.stderr


def test_folders_of_the_working_directory_do_not_hide_gin_files(tmp_path, monkeypatch):
    # Python takes them for packages, and with them gin; runs are kept in one called `runs`.
    for name in ("runs", "models", "sweeps"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "RANDOM_SEED" in gin_utils.macros_of(["runs/prompt_train.gin", "models/demo.gin"])


def test_macros_that_only_look_like_ours_are_named_and_others_are_let_be(caplog):
    gin.clear_config()
    gin.parse_config("RATE = 1\nRUNG = 2\nBATCH_SIZE = 3")
    gin_utils.check_unused_macros()
    assert [record.args for record in caplog.records] == [("RATE",), ("RUNG",)]
    gin.parse_config("DROPUOT_RATE = 0.1")
    with pytest.raises(InputError, match="DROPUOT_RATE is set.*DROPOUT_RATE is meant"):
        gin_utils.check_unused_macros()
    gin.clear_config()


def test_a_size_of_another_method_is_named_and_a_file_may_set_more_than_is_used(caplog, tmp_path):
    (tmp_path / "mine.gin").write_text("SHOTS = 8\nEPOCHS = 1\n")
    flags = ["BOTTLENECK = 3", "PREFIX_LENGTH = 5", "PROMPT_LENGTH = 4", "optax.adamw.b1 = 0.5"]
    config_of([*T5_SMALL, "prompts/vanilla.gin", str(tmp_path / "mine.gin")], flags)
    gin_utils.check_flags(flags)
    unused = [record.getMessage().split(" ")[0] for record in caplog.records]
    assert unused == ["--gin.BOTTLENECK", "--gin.PREFIX_LENGTH"]
    with pytest.raises(InputError, match="--gin.SHOTS is set, but nothing in this run uses it"):
        gin_utils.check_flags(["SHOTS = 8"])


@pytest.mark.parametrize(
    ("macro", "name", "wanted"),
    [
        ("PROMPT", "prompts.DecomposedPrompt", "@prompts.DecomposedPrompt()"),
        ("MODEL", "models.T5Config", "@models.T5Config()"),
    ],
)
def test_a_class_without_its_parentheses_is_refused(macro, name, wanted):
    with pytest.raises(
        InputError, match=f"^{macro} is .*; it must be one like {re.escape(wanted)}"
    ):
        config_of([*T5_SMALL, "prompts/decomposed.gin"], ["EPOCHS = 1", f"{macro} = @{name}"])
