"""A split in memory: what becomes of examples that are too long."""

import numpy as np
import pytest

from dpt_jax.data.examples import load_split
from dpt_jax.data.tasks import get_provider

WHOLE, SHORT = {"inputs": 64, "targets": 6}, {"inputs": 20, "targets": 6}
EOS = 1


@pytest.fixture(scope="module")
def toy():
    return get_provider("toy_x", "tests.support.toy_tasks")


def test_what_is_cut_keeps_its_beginning_and_the_end_token(toy):
    [whole], [cut] = load_split(toy, "train", WHOLE), load_split(toy, "train", SHORT, "truncate")
    assert max(map(len, whole.inputs)) > 20 == max(map(len, cut.inputs))
    for long, short in zip(whole.inputs, cut.inputs, strict=True):
        expected = long if len(long) <= 20 else [*long[:19], EOS]
        np.testing.assert_array_equal(short, expected)
        assert long[-1] == EOS


def test_what_is_dropped_leaves_the_others_as_they_are(toy):
    [whole], [left] = load_split(toy, "train", WHOLE), load_split(toy, "train", SHORT, "drop")
    expected = [row.tolist() for row in whole.inputs if len(row) <= 20]
    assert 0 < len(expected) < len(whole.inputs)
    assert [row.tolist() for row in left.inputs] == expected
