"""The model files build T5X's model around the prompted network, in every size."""

import gin
import pytest
from flax.core import unfreeze
from flax.traverse_util import flatten_dict

pytest.importorskip("t5x", reason="T5X is not on PYTHONPATH: docs/t5x.md", exc_type=ImportError)

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from t5x import models

from dpt_jax import prefixes, prompts
from dpt_jax.gin_utils import check_unused_macros, gin_configs
from dpt_jax.interop.prefixes import FoldedPrefix, save_prefix
from dpt_jax.t5x.prompted_network import PromptedTransformer
from tests.interop.test_model_gin_files import PARAMETERS

pytestmark = pytest.mark.t5x

SIZES = {
    "t5_1_0": ("small", "base", "large", "3b", "11b"),
    "t5_1_1": ("small", "base", "large", "xl", "xxl"),
}
FILES = [f"{family}_{size}" for family, sizes in SIZES.items() for size in sizes]


@pytest.fixture(autouse=True)
def clean_gin(monkeypatch):
    monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", ["", str(gin_configs())])
    gin.clear_config(clear_constants=True)
    yield
    gin.clear_config(clear_constants=True)


def build(name, trained="prompts/decomposed", *bindings, run="prompted"):
    """The model of a run on a demo task, whose vocabulary needs no bucket."""
    gin.parse_config_files_and_bindings(
        [f"t5x/runs/{run}.gin", f"t5x/models/{name}.gin", f"{trained}.gin"],
        [
            "MIXTURE_OR_TASK_NAME = 'demo_questions'",
            "MIXTURE_OR_TASK_MODULE = 'dpt_jax.demo.tasks'",
            "VOCABULARY_FILE = None",
            *bindings,
        ],
    )
    return gin.query_parameter("%MODEL").scoped_configurable_fn()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_size_has_the_published_parameters_and_those_of_its_prompt(name):
    model = build(name)
    assert isinstance(model, models.EncoderDecoderModel)
    assert isinstance(model.module, PromptedTransformer)
    tokens = dict.fromkeys(("encoder_input_tokens", "decoder_input_tokens"), (1, 4))
    variables = jax.eval_shape(lambda: model.get_initial_variables(jax.random.key(0), tokens))
    counts = {
        name: math.prod(leaf.shape)
        for name, leaf in flatten_dict(unfreeze(variables["params"]), sep="/").items()
    }
    prompt = [name for name in counts if name.startswith("prompt/")]
    width = gin.query_parameter("%EMBED_DIM")
    assert sum(counts.pop(name) for name in prompt) == 10 * (100 + width)
    assert sum(counts.values()) == PARAMETERS[name]
    assert model.module.config.dtype == jnp.bfloat16


def test_every_model_file_is_built_here():
    found = {path.stem for path in (gin_configs() / "t5x" / "models").glob("*.gin")}
    assert found - {"prompted", "demo"} == set(FILES)


@pytest.mark.parametrize(
    ("file", "prompt"),
    [
        ("vanilla", prompts.VanillaPrompt),
        ("residual", prompts.ResidualPrompt),
        ("spectral", prompts.SpectralPrompt),
        ("decomposed_uniform", prompts.DecomposedPrompt),
    ],
)
def test_a_prompt_file_of_dpt_train_is_taken_as_it_is(file, prompt):
    module = build("demo", f"prompts/{file}", "PROMPT_LENGTH = 7").module
    assert isinstance(module.prompt, prompt)
    assert (module.prompt.length, module.prompt.embed_dim) == (7, 128)


@pytest.mark.parametrize("file", sorted((gin_configs() / "prefixes").glob("*.gin")))
def test_a_prefix_file_of_dpt_train_is_enough_alone(file, tmp_path):
    arrays = {f"encoder_{kind}": np.ones((3, 7, 8, 16), np.float32) for kind in ("keys", "values")}
    save_prefix(tmp_path, FoldedPrefix(arrays))
    settings = ("PREFIX_LENGTH = 7", f"PREFIX_FILE = '{tmp_path / 'prefix.npz'}'")
    module = build("demo", f"prefixes/{file.stem}", *settings).module
    assert module.prompt is None
    assert isinstance(module.prefix, prefixes.Prefix)
    assert (module.prefix.length, module.prefix.stacks) == (7, ("encoder",))


@pytest.mark.parametrize(
    ("run", "program"),
    [("prompt_train", "train"), ("prompt_eval", "evaluate"), ("prompt_infer", "infer")],
)
def test_a_run_file_sets_nothing_that_its_run_does_not_read(run, program, monkeypatch, caplog):
    # What `python -m t5x.train` and the others have in `__main__`.
    from t5x import eval as t5x_eval
    from t5x import infer, train

    functions = {"train": train.train, "evaluate": t5x_eval.evaluate, "infer": infer.infer}
    monkeypatch.setattr(sys.modules["__main__"], program, functions[program], raising=False)
    gin.parse_config_files_and_bindings(
        [f"t5x/runs/{run}.gin", "t5x/models/demo.gin", "prompts/decomposed.gin"],
        None,
        finalize_config=False,
    )
    caplog.clear()
    check_unused_macros()
    assert not caplog.records


def test_the_model_knows_the_trainers_microbatches(monkeypatch):
    from t5x import train

    monkeypatch.setattr(sys.modules["__main__"], "train", train.train, raising=False)
    required = ("MODEL_DIR = ''", "TASK_FEATURE_LENGTHS = {}", "TRAIN_STEPS = 1")
    model = build("demo", "prompts/decomposed", "MICROBATCHES = 4", *required, run="prompt_train")
    assert model.microbatches == 4


def test_the_optimizer_and_the_decoding_can_be_named_on_the_command_line():
    model = build("demo", "prompts/decomposed", "OPTIMIZER = @optax.adafactor", "CLIP_NORM = 1.0")
    assert "FactoredState" in str(model.optimizer_def.init_state({"prompt": {"A": jnp.ones(3)}}))
    gin.clear_config(clear_constants=True)
    model = build("demo", "prompts/decomposed", "DECODE_FN = @decoding.beam_search")
    assert "beam_search" in str(model.decode_fn)
