"""Generation on a divided CPU gives what one device gives."""

import functools
import json

import jax
import numpy as np
import pytest

from dpt_jax.models import decoding
from tests.support import generating, processes, runs


@pytest.fixture(scope="module")
def found():
    done = processes.run("tests.support.generating", devices=4)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["4x1x1", "2x1x2"])
@pytest.mark.parametrize("beams", generating.BEAMS)
def test_a_divided_cpu_generates_what_one_device_does(found, mesh, beams):
    params = runs.random_parameters() | {"prompt": {"prompt": generating.PROMPT}}
    if beams == 1:
        decode = functools.partial(decoding.greedy_decode, generating.MODEL)
    else:
        decode = functools.partial(decoding.beam_search, generating.MODEL, beam_size=beams)
    decode = functools.partial(decode, max_decode_length=generating.LENGTH)
    expected = jax.jit(decode)(params, generating.ROWS)
    if beams > 1:
        expected = expected[0][:, 0]
    tokens = found[f"{mesh}, {beams} beams"]["tokens"]
    np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(tokens, axis=0)) > 4  # The rows are told apart.


@pytest.mark.slow
def test_one_device_decodes_where_each_has_all_weights(found):
    devices = {name.split(",")[0]: result["devices"] for name, result in found.items()}
    assert devices == {"4x1x1": 1, "2x1x2": 4}
