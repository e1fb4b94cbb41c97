"""Prompts and their factors in numpy files."""

from pathlib import Path

import jax
import numpy as np
import pytest

from dpt_jax.errors import InputError
from dpt_jax.interop import load_factors, load_prompt, save_factors, save_prompt
from dpt_jax.prompts import ResidualPrompt
from dpt_jax.run_files import numpy_checkpoints

LESTER = Path(__file__).parents[3] / "shared" / "data" / "lester_prompts"


@pytest.fixture
def prompt():
    return np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)


def test_a_prompt_is_a_plain_numpy_file(tmp_path, prompt):
    path = tmp_path / "mine.npy"
    save_prompt(path, prompt.astype(np.float64))
    stored = np.load(path)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, prompt)
    np.testing.assert_array_equal(load_prompt(path), prompt)


def test_a_folder_gets_the_prompt_and_its_factors_under_their_names(tmp_path, prompt):
    shapes = jax.eval_shape(ResidualPrompt(6, 16, hidden_dim=5).initialize, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    folder = tmp_path / "checkpoint_10"
    save_prompt(folder, prompt, params)
    assert sorted(path.name for path in folder.iterdir()) == ["prompt.npy", "prompt_params.npz"]
    with np.load(folder / "prompt_params.npz") as archive:
        assert {"prompt", "mlp_wi/kernel", "mlp_wo/bias", "layer_norm/scale"} <= set(archive.files)
    jax.tree.map(np.testing.assert_array_equal, load_factors(folder), params)
    np.testing.assert_array_equal(load_prompt(folder), prompt)


def test_the_factors_of_a_decomposed_prompt_are_multiplied(tmp_path):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(3, 16))
    save_factors(tmp_path / "factors.npz", {"A": a.astype(np.float32), "B": b.astype(np.float32)})
    np.testing.assert_allclose(load_prompt(tmp_path / "factors.npz"), a @ b, atol=1e-5)


def test_saving_again_replaces_the_prompt(tmp_path, prompt):
    save_prompt(tmp_path / "step", prompt)
    save_prompt(tmp_path / "step", 2 * prompt)
    np.testing.assert_array_equal(load_prompt(tmp_path / "step"), 2 * prompt)
    assert [path.name for path in (tmp_path / "step").iterdir()] == ["prompt.npy"]


def test_a_failed_write_keeps_the_old_prompt(tmp_path, prompt, monkeypatch):
    path = tmp_path / "mine.npy"
    save_prompt(path, prompt)

    def fails(file, array):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", fails)
    with pytest.raises(OSError, match="No space"):
        save_prompt(path, 2 * prompt)
    np.testing.assert_array_equal(load_prompt(path), prompt)
    assert list(tmp_path.iterdir()) == [path]


def test_a_runs_prompts_are_listed_by_step_and_half_written_ones_left_out(tmp_path, prompt):
    folder = tmp_path / "numpy_checkpoints"
    for step in (200, 30, 1000):
        save_prompt(folder / f"checkpoint_{step}", prompt)
    save_factors(folder / "checkpoint_2000" / "prompt_params.npz", {"prompt": prompt})
    (folder / "checkpoint_best").mkdir()
    assert list(numpy_checkpoints(tmp_path)) == [30, 200, 1000]
    with pytest.raises(InputError, match="several steps.*--prompt.*checkpoint_30"):
        load_prompt(tmp_path)


def test_the_authors_own_prompts_load():
    files = sorted(LESTER.glob("*.npy"))
    if not files:
        pytest.skip("the prompts that Lester et al. released are not on this machine")
    for path in files:
        assert load_prompt(path, embed_dim=768, length=100).dtype == np.float32


def test_another_width_names_file_shape_width_and_flag(tmp_path, prompt):
    path = tmp_path / "mine.npy"
    save_prompt(path, prompt)
    with pytest.raises(InputError) as error:
        load_prompt(path, embed_dim=32, flag="--prompt_file")
    for part in (str(path), "(6, 16)", "32", "EMBED_DIM", "--prompt_file"):
        assert part in str(error.value)


def test_another_length_names_the_binding(tmp_path, prompt):
    save_prompt(tmp_path / "mine.npy", prompt)
    with pytest.raises(InputError, match=r"\(6, 16\).*PROMPT_LENGTH is 7.*--gin.PROMPT_LENGTH=6"):
        load_prompt(tmp_path / "mine.npy", length=7)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(16, np.float32),
        np.zeros((2, 3, 4), np.float32),
        np.zeros((0, 16), np.float32),
        np.zeros((6, 16), np.int32),
        np.full((6, 16), np.nan, np.float32),
        np.array([{"a": 1}], object),
    ],
    ids=["vector", "rank 3", "empty", "integers", "not finite", "objects"],
)
def test_what_is_not_a_prompt_is_refused_with_its_file_named(tmp_path, array):
    path = tmp_path / "mine.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(InputError, match=r"mine\.npy.*--prompt"):
        load_prompt(path)


@pytest.mark.parametrize("name", ["mine.npy", "mine.npz", "folder"])
def test_a_missing_prompt_is_named(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}.*--prompt"):
        load_prompt(tmp_path / name)


@pytest.mark.parametrize("name", ["mine.npy", "mine.npz"])
def test_a_truncated_file_is_named(tmp_path, prompt, name):
    path = tmp_path / name
    if name.endswith("npz"):
        save_factors(path, {"A": prompt, "B": prompt.T})
    else:
        save_prompt(path, prompt)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"{name}.*--prompt"):
        load_prompt(path)


def test_factors_that_only_their_method_can_fold_point_to_the_folded_prompt(tmp_path, prompt):
    save_factors(tmp_path / "mine.npz", {"U": prompt, "sigma": prompt[0], "V": prompt})
    with pytest.raises(InputError, match=r"U, sigma, V.*prompt\.npy"):
        load_prompt(tmp_path / "mine.npz")


def test_a_vector_is_not_saved_as_a_prompt(tmp_path):
    with pytest.raises(InputError, match=r"\(16,\)"):
        save_prompt(tmp_path / "mine.npy", np.zeros(16))
    assert not any(tmp_path.iterdir())
