"""What the prompts compute, count, declare and refuse."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dpt_jax import prompts
from dpt_jax.interop import PromptFile

LENGTH, WIDTH, BOTTLENECK, HIDDEN = 6, 8, 3, 5


class ScaledPrompt(prompts.SoftPrompt):
    """A method of one file, as somebody else would add it: one row, and one number per token."""

    @nn.compact
    def __call__(self):
        row = prompts.declare_parameter(
            self, "row", prompts.gaussian(1.0), (self.embed_dim,), ("prompt_embed",)
        )
        scale = prompts.declare_parameter(
            self, "scale", prompts.uniform(1.0), (self.length,), ("prompt_length",)
        )
        return scale[:, None] * row


SMALL = {
    "vanilla": prompts.VanillaPrompt(LENGTH, WIDTH),
    "decomposed": prompts.DecomposedPrompt(LENGTH, WIDTH, BOTTLENECK),
    "residual": prompts.ResidualPrompt(LENGTH, WIDTH, HIDDEN),
    "spectral": prompts.SpectralPrompt(LENGTH, WIDTH),
    "scaled": ScaledPrompt(LENGTH, WIDTH),
}


def initial(prompt, seed=0):
    """The initial parameters, drawn by one program."""
    return jax.jit(prompt.initialize)(jax.random.key(seed))


def random_like(prompt, seed=0):
    """Parameters of the initial ones' shapes, all random: no bias at 0, no scale at 1."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(prompt.initialize, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def residual_formula(p):
    hidden = np.maximum(p["prompt"] @ p["mlp_wi"]["kernel"] + p["mlp_wi"]["bias"], 0)
    update = hidden @ p["mlp_wo"]["kernel"] + p["mlp_wo"]["bias"]
    mean, variance = update.mean(axis=1, keepdims=True), update.var(axis=1, keepdims=True)
    normal = (update - mean) / np.sqrt(variance + 1e-5)
    return p["prompt"] + normal * p["layer_norm"]["scale"] + p["layer_norm"]["bias"]


FORMULAS = {
    "vanilla": lambda p: p["prompt"],
    "decomposed": lambda p: np.einsum("pb,bd->pd", p["A"], p["B"]),
    "residual": residual_formula,
    "spectral": lambda p: p["U"] @ np.diag(np.maximum(p["sigma"], 0)) @ p["V"],
    "scaled": lambda p: np.outer(p["scale"], p["row"]),
}


@pytest.mark.parametrize(
    ("width", "vanilla", "residual_100", "residual_10", "decomposed"),
    [
        (512, 51_200, 462_736, 416_656, 6_120),
        (768, 76_800, 693_904, 624_784, 8_680),
        (1024, 102_400, 925_072, 832_912, 11_240),
    ],
)
def test_parameter_counts_are_those_of_the_papers(
    width, vanilla, residual_100, residual_10, decomposed
):
    assert prompts.VanillaPrompt(100, width).parameter_count() == vanilla
    assert prompts.ResidualPrompt(100, width).parameter_count() == residual_100
    assert prompts.ResidualPrompt(10, width).parameter_count() == residual_10
    assert prompts.DecomposedPrompt(100, width, 10).parameter_count() == decomposed


@pytest.mark.parametrize(
    ("bottleneck", "count"), [(10, 11_240), (1_000, 1_124_000), (10_000, 11_240_000)]
)
def test_bottleneck_may_exceed_the_prompts_own_rank(bottleneck, count):
    # Section 6.4: 11.2K, 1.1M and 11.2M parameters.
    assert prompts.DecomposedPrompt(100, 1024, bottleneck).parameter_count() == count


@pytest.mark.parametrize("length", [6, 10])
def test_short_prompts_with_bottleneck_2_save_parameters(length):
    # Appendix A.9.
    assert prompts.DecomposedPrompt(length, 512, 2).parameter_count() == 2 * (length + 512)


def test_spectral_prompt_has_one_singular_value_per_token():
    assert prompts.SpectralPrompt(100, 512).parameter_count() == 100 * 100 + 100 + 100 * 512


@pytest.mark.parametrize(
    "init", [prompts.SampledVocabulary(), prompts.from_prompt(PromptFile("no/such/prompt.npy"))]
)
def test_shapes_and_counts_need_neither_embeddings_nor_files(init):
    prompt = prompts.ResidualPrompt(100, 512, prompt_init=init)
    assert prompt.parameter_count() == 462_736
    shapes = jax.eval_shape(prompts.shape_only(prompt).init, jax.random.key(0))
    assert shapes["params"]["prompt"].shape == (100, 512)
    assert prompt.prompt_init is init


@pytest.mark.slow
@pytest.mark.parametrize("method", SMALL)
def test_fold_equals_the_closed_form(method):
    prompt = SMALL[method]
    params = random_like(prompt)
    folded = prompt.fold(params)
    assert isinstance(folded, np.ndarray)
    assert folded.dtype == np.float32
    assert folded.shape == (LENGTH, WIDTH)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    np.testing.assert_allclose(folded, FORMULAS[method](wide), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", SMALL)
def test_initial_parameters_are_float32_and_repeat_with_the_seed(method):
    draw = jax.jit(SMALL[method].initialize)
    first, again, other = (draw(jax.random.key(seed)) for seed in (1, 1, 2))
    for leaf in jax.tree.leaves(first):
        assert leaf.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(SMALL[method].fold(first), SMALL[method].fold(other))


def test_parameter_names_are_the_contract():
    def names(method):
        flat = jax.tree_util.tree_flatten_with_path(random_like(SMALL[method]))[0]
        return {"/".join(key.key for key in path) for path, _ in flat}

    assert names("vanilla") == {"prompt"}
    assert names("decomposed") == {"A", "B"}
    assert names("spectral") == {"U", "sigma", "V"}
    assert names("residual") == {
        "prompt",
        "mlp_wi/kernel",
        "mlp_wi/bias",
        "mlp_wo/kernel",
        "mlp_wo/bias",
        "layer_norm/scale",
        "layer_norm/bias",
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", SMALL)
def test_gradients_equal_finite_differences(method):
    prompt = SMALL[method]
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda leaf: leaf.astype(np.float64),
            random_like(prompt, seed=3),
        )
        weights = np.random.default_rng(1).normal(size=(LENGTH, WIDTH))

        @jax.jit
        def loss(params):
            # A loss that is not linear in the prompt, so that each factor's gradient is tested
            # where it depends on the other.
            return jnp.sum(weights * jnp.tanh(prompt.apply({"params": params})))

        # Waited for, as float() below waits: JAX may read the arrays in place, and later.
        gradients, step = jax.device_get(jax.jit(jax.grad(loss))(params)), 1e-6
        for leaf, gradient in zip(jax.tree.leaves(params), jax.tree.leaves(gradients), strict=True):
            for index in np.ndindex(leaf.shape):
                value = leaf[index]
                leaf[index] = value + step
                above = float(loss(params))
                leaf[index] = value - step
                below = float(loss(params))
                leaf[index] = value
                slope = (above - below) / (2 * step)
                np.testing.assert_allclose(gradient[index], slope, rtol=1e-5, atol=1e-7)


def test_spectral_prompt_starts_at_full_rank_and_a_negative_entry_closes_a_direction():
    prompt = SMALL["spectral"]
    params = jax.tree.map(np.array, initial(prompt))
    assert (params["sigma"] > 0).all()
    assert np.linalg.matrix_rank(prompt.fold(params)) == LENGTH
    closed = {**params, "sigma": np.where(np.arange(LENGTH) < 2, -1.0, params["sigma"])}
    assert np.linalg.matrix_rank(prompt.fold(closed)) == LENGTH - 2


def test_residual_mlp_treats_every_token_alike():
    prompt = SMALL["residual"]
    params = random_like(prompt)
    order = np.random.default_rng(0).permutation(LENGTH)
    shuffled = {**params, "prompt": params["prompt"][order]}
    np.testing.assert_allclose(prompt.fold(shuffled), prompt.fold(params)[order], atol=1e-6)


@pytest.mark.parametrize("method", SMALL)
def test_prompt_works_inside_another_module_under_the_name_prompt(method):
    class Prompted(nn.Module):
        prompt: nn.Module

        def setup(self):
            self.dense = nn.Dense(WIDTH)

        def __call__(self, x):
            return jnp.concatenate([self.prompt(), self.dense(x)])

    model = Prompted(SMALL[method])
    x = np.ones((2, WIDTH), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    assert set(variables["params"]) == {"prompt", "dense"}
    own = variables["params"]["prompt"]
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, random_like(SMALL[method]))
    out = jax.jit(model.apply)({"params": variables["params"]}, x)
    np.testing.assert_allclose(out[:LENGTH], SMALL[method].fold(own), atol=1e-6)
    # T5X looks up a parameter's axes under the parameter's path with "_axes" added.
    axes = {
        "/".join(key.key for key in path): metadata
        for path, metadata in jax.tree_util.tree_flatten_with_path(
            variables["params_axes"]["prompt"], is_leaf=lambda leaf: hasattr(leaf, "names")
        )[0]
    }
    known = {"prompt_length", "bottleneck", "prompt_embed", "prompt_mlp", "rank"}
    for path, leaf in jax.tree_util.tree_flatten_with_path(own)[0]:
        names = axes.pop("/".join(key.key for key in path) + "_axes").names
        assert len(names) == leaf.ndim
        assert set(names) <= known
    assert not axes


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "10", None])
@pytest.mark.parametrize(
    ("field", "macro"),
    [("length", "PROMPT_LENGTH"), ("embed_dim", "EMBED_DIM"), ("bottleneck", "BOTTLENECK")],
)
def test_sizes_below_1_are_refused_at_construction(field, macro, value):
    if (field, value) == ("embed_dim", None):
        return  # It is left to the model.
    sizes = {"length": 6, "embed_dim": 8, "bottleneck": 2, field: value}
    with pytest.raises(ValueError, match=rf"{macro} is .*{field} must be .* at least 1"):
        prompts.DecomposedPrompt(**sizes)


@pytest.mark.parametrize("method", SMALL)
def test_every_method_refuses_an_empty_prompt(method):
    with pytest.raises(ValueError, match="PROMPT_LENGTH is 0"):
        SMALL[method].clone(length=0)


def test_residual_prompt_refuses_an_empty_mlp():
    with pytest.raises(ValueError, match=r"ResidualPrompt.hidden_dim is 0"):
        prompts.ResidualPrompt(6, 8, 0)


def test_fold_refuses_parameters_of_another_size():
    params = random_like(prompts.DecomposedPrompt(6, 8, 2))
    with pytest.raises(ValueError, match=r"'A' has shape \(6, 2\).*declares \(6, 3\).*BOTTLENECK"):
        prompts.DecomposedPrompt(6, 8, 3).fold(params)


def test_trained_parameters_do_not_need_their_starting_point(tmp_path):
    path = tmp_path / "start.npy"
    np.save(path, np.ones((6, 8), np.float32))
    prompt = prompts.VanillaPrompt(6, 8, prompts.from_prompt(PromptFile(str(path))))
    params = prompt.initialize(jax.random.key(0))
    path.unlink()
    np.testing.assert_array_equal(prompt.fold(params), np.ones((6, 8)))
    unbound = prompts.VanillaPrompt(6, 8, prompts.SampledVocabulary())
    np.testing.assert_array_equal(unbound.fold(params), np.ones((6, 8)))


@pytest.mark.slow
def test_import_brings_in_neither_tensorflow_nor_seqio_nor_torch():
    code = (
        "import sys, dpt_jax.prompts\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch', 'gin') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
