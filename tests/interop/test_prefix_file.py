"""A prefix that starts from a prefix.npz."""

import dataclasses

import gin
import jax
import numpy as np
import pytest

from dpt_jax import gin_utils
from dpt_jax.errors import InputError
from dpt_jax.interop import prefix_from_file
from dpt_jax.interop.prefixes import FoldedPrefix, save_prefix
from dpt_jax.prefixes import STACKS, FreePrefix
from tests.support import runs


def prefix_file(folder, layers=1, stacks=STACKS, heads=8):
    """A prefix of the toy T5 in a file; returns the file and the arrays."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{stack}_{kind}": rng.normal(size=(layers, 3, heads, 4)).astype(np.float32)
        for stack in stacks
        for kind in ("keys", "values")
    }
    save_prefix(folder, FoldedPrefix(arrays, "front"))
    return str(folder / "prefix.npz"), arrays


def test_it_starts_with_the_files_own_keys_and_values(tmp_path):
    path, arrays = prefix_file(tmp_path)
    prefix = prefix_from_file(path)
    assert (prefix.length, prefix.stacks, prefix.position_bias) == (3, STACKS, "front")
    drawn = prefix.initialize(jax.random.key(0), runs.T5)
    assert drawn.keys() == arrays.keys()
    for name, array in drawn.items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize(("layers", "acts_on"), [(1, "first"), (2, "all")])
def test_it_acts_on_the_files_layers(tmp_path, layers, acts_on):
    path, _ = prefix_file(tmp_path, layers, ("encoder",))
    assert prefix_from_file(path).layers == acts_on


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": 2}, r"encoder_keys of shape \(2, 3, 8, 4\), but .* \(1, 3, 8, 4\)"),
        ({"heads": 6}, r"\(1, 3, 6, 4\), but .* \(1, 3, 8, 4\) .*Change PREFIX_FILE"),
    ],
)
def test_a_file_of_another_model_is_refused(tmp_path, sizes, message):
    path, _ = prefix_file(tmp_path, **sizes)
    with pytest.raises(ValueError, match=message):
        prefix_from_file(path).initialize(jax.random.key(0), runs.T5)


def test_a_stack_of_one_layer_goes_with_the_first_layers_of_others():
    arrays = {
        f"{stack}_{kind}": np.ones((1, 3, 8, 4), np.float32)
        for stack in ("encoder", "decoder")
        for kind in ("keys", "values")
    }
    shape = dataclasses.replace(runs.T5, num_encoder_layers=3)
    assert FoldedPrefix(arrays).module(shape).layers == "first"
    assert FoldedPrefix(arrays).module(runs.T5).layers == "all"


def test_a_missing_file_names_the_macro(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.npz.*PREFIX_FILE"):
        prefix_from_file(str(tmp_path / "nowhere.npz"))


def test_the_gin_file_needs_the_file_alone(tmp_path):
    path, _ = prefix_file(tmp_path)
    (tmp_path / "run.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom dpt_jax.training import config\n"
        "config.RunConfig.prefix = %PREFIX\n"
    )
    files = [str(tmp_path / "run.gin"), "prefixes/free_from_prefix.gin"]
    gin_utils.parse(files, [f"PREFIX_FILE = {path!r}"])
    prefix = gin.query_parameter("%PREFIX").scoped_configurable_fn()
    assert isinstance(prefix, FreePrefix)
    assert prefix.length == 3
