"""The gin files of the prompts: each one parses, builds its module and takes its macros."""

from pathlib import Path

import gin
import jax
import numpy as np
import pytest
from flax import linen as nn

from dpt_jax import prompts

CONFIGS = Path(__file__).parents[2] / "gin_configs" / "prompts"
# Whatever is there: a new method's file is tested without a word here.
FILES = sorted(path.stem for path in CONFIGS.glob("*.gin"))
# The first part of a file's name, to the paper's method and its closed-form number of parameters
# at P = 100, D = 512, b = 10 and a hidden width of 400.
P, D, B, HIDDEN = 100, 512, 10, 400
PAPERS_METHODS = {
    "vanilla": (prompts.VanillaPrompt, P * D),
    "decomposed": (prompts.DecomposedPrompt, B * (P + D)),
    "residual": (prompts.ResidualPrompt, P * D + D * HIDDEN + HIDDEN + HIDDEN * D + D + 2 * D),
    "spectral": (prompts.SpectralPrompt, P * P + P + P * D),
}


@pytest.fixture(autouse=True)
def fresh_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompt.npy"
    np.save(path, np.random.default_rng(0).normal(size=(100, 512)).astype(np.float32))
    return path


@pytest.fixture
def factors_file(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "prompt_params.npz"
    np.savez(path, A=rng.normal(size=(100, 10)), B=rng.normal(size=(10, 512)))
    return path


def build(name, *bindings):
    gin.parse_config_files_and_bindings([str(CONFIGS / f"{name}.gin")], bindings)
    return gin.query_parameter("%PROMPT").scoped_configurable_fn()


def macros_of(name, prompt_file, factors_file):
    """What the file `name` has to be told."""
    macros = ["EMBED_DIM = 512"]
    if "_from_" in name:
        file = factors_file if name.endswith("factors") else prompt_file
        macros.append(f"PROMPT_FILE = '{file}'")
    if name.endswith("class_labels"):
        macros.append("CLASS_LABELS = ['a', 'b']")
    return macros


@pytest.mark.parametrize("name", FILES)
def test_file_builds_a_working_prompt(name, prompt_file, factors_file):
    prompt = build(name, *macros_of(name, prompt_file, factors_file))
    assert isinstance(prompt, prompts.SoftPrompt)
    assert prompt.clone(length=7).length == 7

    table = np.random.default_rng(1).normal(size=(64, 512)).astype(np.float32)
    bound = prompts.bind_vocabulary(prompt, table, lambda text: [ord(text) - 90])
    bound = prompts.bind_residual_norm(bound, lambda: 50.0)

    class Parent(nn.Module):
        prompt: nn.Module

        @nn.compact
        def __call__(self):
            return self.prompt()

    params = jax.jit(Parent(bound).init)(jax.random.key(0))["params"]
    assert set(params) == {"prompt"}
    assert prompt.parameter_count() == sum(x.size for x in jax.tree.leaves(params))
    folded = prompt.fold(params["prompt"])
    assert folded.shape == (100, 512)
    assert np.isfinite(folded).all()


def test_the_papers_methods_are_there():
    assert set(PAPERS_METHODS) <= set(FILES)


@pytest.mark.parametrize("name", [f for f in FILES if f.split("_")[0] in PAPERS_METHODS])
def test_the_papers_methods_have_the_papers_numbers_of_parameters(name, prompt_file, factors_file):
    prompt = build(name, *macros_of(name, prompt_file, factors_file))
    method, count = PAPERS_METHODS[name.split("_")[0]]
    assert type(prompt) is method
    assert prompt.parameter_count() == count


def test_macros_set_the_sizes():
    prompt = build("decomposed", "EMBED_DIM = 64", "PROMPT_LENGTH = 20", "BOTTLENECK = 4")
    assert (prompt.length, prompt.embed_dim, prompt.bottleneck) == (20, 64, 4)


def test_recipes_start_the_factors_differently():
    macros = ("EMBED_DIM = 512",)
    paper = build("decomposed", *macros).initialize(jax.random.key(0))
    gin.clear_config()
    released = build("decomposed_uniform", *macros).initialize(jax.random.key(0))
    for factor in "AB":
        assert 0.9 < paper[factor].std() < 1.1
        assert 0.45 < np.abs(released[factor]).max() <= 0.5


def test_vanilla_starts_from_lesters_sampled_vocabulary():
    prompt = build("vanilla", "EMBED_DIM = 512")
    assert prompt.prompt_init == prompts.SampledVocabulary(5000)


def test_decomposed_from_prompt_starts_near_the_prompt(prompt_file):
    prompt = build(
        "decomposed_from_prompt",
        "EMBED_DIM = 512",
        "BOTTLENECK = 100",
        f"PROMPT_FILE = '{prompt_file}'",
    )
    folded = prompt.fold(prompt.initialize(jax.random.key(0)))
    np.testing.assert_allclose(folded, np.load(prompt_file), atol=1e-4)


def test_decomposed_from_factors_starts_from_the_very_factors(factors_file):
    macros = ("EMBED_DIM = 512", f"PROMPT_FILE = '{factors_file}'")
    params = build("decomposed_from_factors", *macros).initialize(jax.random.key(0))
    with np.load(factors_file) as factors:
        for name in "AB":
            np.testing.assert_array_equal(params[name], factors[name].astype(np.float32))


@pytest.mark.parametrize("macro", ["PROMPT_LENGTH", "BOTTLENECK"])
def test_factors_of_other_sizes_name_the_macros(factors_file, macro):
    macros = ("EMBED_DIM = 512", f"PROMPT_FILE = '{factors_file}'", f"{macro} = 7")
    with pytest.raises(ValueError, match=rf"A of shape \(100, 10\).*{macro}.*7"):
        build("decomposed_from_factors", *macros).initialize(jax.random.key(0))


@pytest.mark.parametrize("macro", ["PROMPT_LENGTH", "BOTTLENECK", "EMBED_DIM"])
def test_a_macro_of_0_is_refused_by_name(macro):
    with pytest.raises(ValueError, match=f"{macro} is 0"):
        build("decomposed", "EMBED_DIM = 512", f"{macro} = 0")


@pytest.mark.parametrize(
    ("name", "macro"),
    [("decomposed_from_prompt", "PROMPT_FILE"), ("vanilla_class_labels", "CLASS_LABELS")],
)
def test_a_required_macro_that_is_not_set_is_named(name, macro):
    with pytest.raises(ValueError, match=macro):
        build(name, "EMBED_DIM = 512")
