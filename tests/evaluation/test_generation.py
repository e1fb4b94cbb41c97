"""Generation on a divided CPU gives what one device gives."""

import json

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
    inputs = generating.MODEL, params, generating.ROWS, generating.LENGTH
    if beams == 1:
        expected = decoding.greedy_decode(*inputs)
    else:
        expected = decoding.beam_search(*inputs, beams)[0][:, 0]
    tokens = found[f"{mesh}, {beams} beams"]["tokens"]
    np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(tokens, axis=0)) > 4  # The rows are told apart.


@pytest.mark.slow
def test_one_device_decodes_where_each_has_all_weights(found):
    devices = {name.split(",")[0]: result["devices"] for name, result in found.items()}
    assert devices == {"4x1x1": 1, "2x1x2": 4}
