"""Where a prompt starts, and which starting points are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax import prompts
from dpt_jax.errors import InputError
from dpt_jax.interop import PromptFile

KEY = jax.random.key(7)


def draw(initializer, shape):
    return np.asarray(initializer(KEY, shape, jnp.float32))


@pytest.fixture
def table():
    """An embedding table whose rows can be told apart: row i is i + 0.25 in every column."""
    return np.repeat(np.arange(40, dtype=np.float32)[:, None] + 0.25, 8, axis=1)


@pytest.fixture
def prompt_file(tmp_path):
    def write(array, name="prompt.npy"):
        np.save(tmp_path / name, array)
        return str(tmp_path / name)

    return write


def test_gaussian_has_the_asked_moments():
    values = draw(prompts.gaussian(0.3), (200, 500))
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 0.3) < 0.005
    # A normal distribution's kurtosis is 3; a truncated one has less.
    assert abs(((values / values.std()) ** 4).mean() - 3) < 0.1


@pytest.mark.parametrize("scale", [0.5, 0.1])
def test_uniform_fills_its_range(scale):
    values = draw(prompts.uniform(scale), (200, 500))
    assert values.min() >= -scale
    assert values.max() < scale
    assert values.min() < -0.99 * scale
    assert values.max() > 0.99 * scale
    assert abs(values.std() - scale / np.sqrt(3)) < 0.01 * scale


def test_vanilla_default_is_uniform_in_half():
    values = jax.jit(prompts.VanillaPrompt(50, 100).initialize)(KEY)["prompt"]
    assert 0.49 < np.abs(values).max() <= 0.5


@pytest.mark.slow
def test_decomposed_default_gives_entries_of_standard_deviation_sqrt_bottleneck():
    prompt = prompts.DecomposedPrompt(200, 400, 10)
    assert abs(prompt.fold(jax.jit(prompt.initialize)(KEY)).std() - np.sqrt(10)) < 0.2


def test_spectral_default_gives_entries_of_unit_standard_deviation():
    prompt = prompts.SpectralPrompt(100, 400)
    assert abs(prompt.fold(jax.jit(prompt.initialize)(KEY)).std() - 1) < 0.05


@pytest.mark.slow
def test_residual_mlp_starts_within_pytorchs_bounds():
    params = jax.jit(prompts.ResidualPrompt(4, 64, 25).initialize)(KEY)
    for layer, fan_in in (("mlp_wi", 64), ("mlp_wo", 25)):
        largest = np.abs(params[layer]["kernel"]).max()
        assert 0.97 / np.sqrt(fan_in) < largest <= 1 / np.sqrt(fan_in)


def test_sampled_vocabulary_takes_distinct_rows_of_the_most_frequent_pieces(table):
    values = draw(prompts.SampledVocabulary(20).bind(table), (20, 8))
    # Twenty rows of a population of twenty: each piece after the three special ids, once.
    np.testing.assert_array_equal(np.sort(values[:, 0]), np.arange(3, 23) + 0.25)
    assert (values == values[:, :1]).all()


def test_sampled_vocabulary_stays_within_a_small_table(table):
    values = draw(prompts.SampledVocabulary(5000).bind(table), (37, 8))
    np.testing.assert_array_equal(np.sort(values[:, 0]), np.arange(3, 40) + 0.25)


def test_sampled_vocabulary_repeats_only_where_it_must(table):
    values = draw(prompts.SampledVocabulary(4).bind(table), (100, 8))
    assert set(values[:, 0]) == {3.25, 4.25, 5.25, 6.25}


def test_sampled_vocabulary_of_a_bfloat16_table_is_float32(table):
    values = prompts.SampledVocabulary().bind(jnp.asarray(table, jnp.bfloat16))(KEY, (5, 8))
    assert values.dtype == jnp.float32


def test_sampled_vocabulary_draws_uniformly():
    table = np.arange(13, dtype=np.float32)[:, None]
    initializer = jax.jit(lambda key: prompts.SampledVocabulary(10).bind(table)(key, (2, 1)))
    drawn = np.concatenate([initializer(key) for key in jax.random.split(KEY, 500)])
    counts = np.bincount(drawn[:, 0].astype(int), minlength=13)
    assert counts[:3].sum() == 0
    # 1,000 draws over ten rows: 100 each, with a standard deviation of about 9.5.
    assert counts[3:].min() > 60
    assert counts[3:].max() < 140


def test_class_labels_come_first_as_means_of_their_pieces(table):
    pieces = {"yes": [5], "not really": [10, 11, 15]}
    labels = prompts.ClassLabels(["yes", "not really"], population=6)
    values = draw(labels.bind(table, pieces.__getitem__), (8, 8))
    np.testing.assert_allclose(values[:2, 0], [5.25, 12.25], rtol=1e-6)
    np.testing.assert_array_equal(np.sort(values[2:, 0]), np.arange(3, 9) + 0.25)


def test_class_labels_may_fill_the_prompt(table):
    values = draw(
        prompts.ClassLabels(("a", "b")).bind(table, lambda text: [ord(text) - 90]), (2, 8)
    )
    np.testing.assert_allclose(values[:, 0], [7.25, 8.25])


def test_more_class_labels_than_rows_are_refused(table):
    initializer = prompts.ClassLabels(("a", "b", "c")).bind(table, lambda text: [4])
    with pytest.raises(ValueError, match="CLASS_LABELS has 3 labels, but PROMPT_LENGTH is 2"):
        draw(initializer, (2, 8))


@pytest.mark.parametrize("ids", [[], [40], [-1]])
def test_a_label_without_usable_pieces_is_refused(table, ids):
    with pytest.raises(ValueError, match=r"label 'odd' is encoded as .* from 0 to 39"):
        draw(prompts.ClassLabels(("odd",)).bind(table, lambda text: ids), (2, 8))


@pytest.mark.parametrize("labels", [(), "true"])
def test_class_labels_must_be_a_list_of_texts(labels):
    with pytest.raises(ValueError, match="CLASS_LABELS is"):
        prompts.ClassLabels(labels)


@pytest.mark.parametrize("init", [prompts.SampledVocabulary, prompts.ClassLabels])
def test_an_empty_population_is_refused(init):
    labels = {"labels": ("a",)} if init is prompts.ClassLabels else {}
    with pytest.raises(ValueError, match=f"{init.__name__}.population is 0"):
        init(**labels, population=0)


def test_class_labels_need_the_vocabulary(table):
    prompt = prompts.VanillaPrompt(4, 8, prompts.ClassLabels(("a",)))
    with pytest.raises(ValueError, match="needs the vocabulary's encode function"):
        prompts.bind_vocabulary(prompt, table)


@pytest.mark.parametrize("init", [prompts.SampledVocabulary(), prompts.ClassLabels(("a",))])
def test_unbound_vocabulary_initializers_say_what_to_call(init):
    with pytest.raises(ValueError, match=f"{type(init).__name__} needs .*bind_vocabulary"):
        prompts.VanillaPrompt(4, 8, init).initialize(KEY)


def test_binding_leaves_the_configured_prompt_as_it_was(table):
    prompt = prompts.ResidualPrompt(4, 8, prompt_init=prompts.SampledVocabulary())
    bound = prompts.bind_vocabulary(prompt, table)
    assert isinstance(prompt.prompt_init, prompts.SampledVocabulary)
    assert bound.kernel_init is prompt.kernel_init
    np.testing.assert_array_equal(bound.initialize(KEY)["prompt"][:, 0] % 1, 0.25)


def test_embeddings_of_another_width_are_refused(table):
    prompt = prompts.bind_vocabulary(
        prompts.VanillaPrompt(4, 9, prompts.SampledVocabulary()), table
    )
    with pytest.raises(ValueError, match=r"8 wide.*\(4, 9\).*EMBED_DIM=8"):
        jax.jit(prompt.initialize)(KEY)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_a_file_of_any_float_type_starts_a_float32_prompt(prompt_file, dtype):
    array = np.arange(48).reshape(6, 8).astype(dtype)
    prompt = prompts.VanillaPrompt(6, 8, prompts.from_prompt(PromptFile(prompt_file(array))))
    params = jax.jit(prompt.initialize)(KEY)
    assert params["prompt"].dtype == jnp.float32
    np.testing.assert_array_equal(prompt.fold(params), np.arange(48.0).reshape(6, 8))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((5, 8)), r"shape \(5, 8\).*PROMPT_LENGTH, EMBED_DIM\) is \(6, 8\).*LENGTH=5"),
        (
            np.ones((6, 9)),
            r"shape \(6, 9\).*PROMPT_LENGTH, EMBED_DIM\) is \(6, 8\).*EMBED_DIM of 8",
        ),
        (np.ones(48), r"shape \(48,\).*PROMPT_LENGTH, EMBED_DIM"),
        (np.ones((1, 6, 8)), r"shape \(1, 6, 8\).*PROMPT_LENGTH, EMBED_DIM"),
        (np.ones((6, 8), int), "type int64"),
        (np.full((6, 8), np.nan), "48 of 48 numbers that are not finite"),
        (np.diag([1.0] * 5 + [np.inf]), "1 of 36 .* row 5, column 5"),
        (np.full((6, 8), 1e300), "not finite in float32"),
    ],
)
def test_a_file_that_is_no_prompt_for_the_model_is_refused(prompt_file, array, message):
    path = prompt_file(array)
    prompt = prompts.VanillaPrompt(6, 8, prompts.from_prompt(PromptFile(path)))
    with pytest.raises(ValueError, match=message) as caught:
        jax.jit(prompt.initialize)(KEY)
    assert path in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "absent.npy")
    with pytest.raises(ValueError, match=r"no prompt file .*absent\.npy"):
        prompts.VanillaPrompt(6, 8, prompts.from_prompt(PromptFile(path))).initialize(KEY)


@pytest.mark.parametrize("content", [b"", b"not numpy at all", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_a_broken_file_is_named_with_the_macro_that_gave_it(tmp_path, content):
    path = tmp_path / "broken.npy"
    path.write_bytes(content)
    prompt = prompts.VanillaPrompt(6, 8, prompts.from_prompt(PromptFile(str(path))))
    with pytest.raises(InputError, match=r"broken\.npy (is no prompt|cannot be read).*PROMPT_FILE"):
        jax.jit(prompt.initialize)(KEY)


def test_an_array_starts_a_prompt_or_is_refused():
    array = np.arange(48.0).reshape(6, 8)
    params = prompts.VanillaPrompt(6, 8, prompts.from_prompt(array)).initialize(KEY)
    np.testing.assert_array_equal(params["prompt"], array)
    with pytest.raises(ValueError, match=r"The given array holds a prompt of shape \(6, 8\)"):
        prompts.VanillaPrompt(7, 8, prompts.from_prompt(array)).initialize(KEY)


def test_factors_by_name_start_a_decomposed_prompt_or_are_refused():
    a, b = np.ones((6, 2), np.float32), np.full((2, 8), 2, np.float32)
    start = [prompts.from_factors({"A": a, "B": b}, factor) for factor in "AB"]
    params = prompts.DecomposedPrompt(6, 8, 2, *start).initialize(KEY)
    np.testing.assert_array_equal(params["A"], a)
    np.testing.assert_array_equal(params["B"], b)
    with pytest.raises(ValueError, match="mapping holds the parameters B, but .* has A and B"):
        draw(prompts.from_factors({"B": b}, "A"), (6, 2))
    with pytest.raises(
        ValueError, match=r"B of shape \(2, 8\).*BOTTLENECK, EMBED_DIM\) is \(3, 8\)"
    ):
        draw(prompts.from_factors({"B": b}, "B"), (3, 8))


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
@pytest.mark.parametrize("bottleneck", [1, 5, 12])
def test_truncated_svd_is_the_best_approximation_of_its_rank(prompt_file, shape, bottleneck):
    array = np.random.default_rng(0).normal(size=shape)
    path = prompt_file(array)
    prompt = prompts.DecomposedPrompt(
        *shape,
        bottleneck,
        prompts.truncated_svd(PromptFile(path), "A"),
        prompts.truncated_svd(PromptFile(path), "B"),
    )
    params = jax.jit(prompt.initialize)(KEY)
    # Eckart and Young: what is left out has the norm of the discarded singular values.
    discarded = np.linalg.svd(array, compute_uv=False)[bottleneck:]
    error = np.linalg.norm(prompt.fold(params) - array)
    np.testing.assert_allclose(error, np.sqrt((discarded**2).sum()), rtol=1e-5, atol=1e-5)
    # Both factors carry the same share of the scale.
    np.testing.assert_allclose(
        np.linalg.norm(params["A"], axis=0), np.linalg.norm(params["B"], axis=1), rtol=1e-5
    )


def test_truncated_svd_takes_an_array():
    array = np.outer(np.arange(1.0, 7), np.arange(1.0, 9))
    a, b = (prompts.truncated_svd(array, factor) for factor in "AB")
    np.testing.assert_allclose(draw(a, (6, 1)) @ draw(b, (1, 8)), array, rtol=1e-5)


def test_truncated_svd_refuses_what_the_prompt_cannot_give(prompt_file):
    path = prompt_file(np.ones((6, 8)))
    with pytest.raises(ValueError, match=r"prompt\.npy .*\(7, any\).*PROMPT_LENGTH=6"):
        draw(prompts.truncated_svd(PromptFile(path), "A"), (7, 2))
    with pytest.raises(ValueError, match=r"prompt\.npy .*\(any, 9\).*EMBED_DIM of 9"):
        draw(prompts.truncated_svd(PromptFile(path), "B"), (2, 9))
    with pytest.raises(ValueError, match="BOTTLENECK is 7.*only 6 singular values"):
        draw(prompts.truncated_svd(PromptFile(path), "A"), (6, 7))
    with pytest.raises(ValueError, match="factor is 'C'"):
        prompts.truncated_svd(PromptFile(path), "C")
