"""The folder of a sweep belongs to one sweep at a time."""

import pytest

from dpt_jax.errors import InputError
from dpt_jax.sweeps import Sweep
from dpt_jax.sweeps.folder import SweepFolder


def test_a_folder_is_one_sweeps_until_it_is_closed(tmp_path):
    sweep = Sweep("small", grid={"BOTTLENECK": [2], "seed": [0]})
    first, second = (
        SweepFolder(tmp_path / "small", sweep, sweep.expand(), "dpt sweep small") for _ in range(2)
    )
    first.open()
    with pytest.raises(InputError, match="Another dpt sweep is running in .*small"):
        second.open()
    first.close()
    second.open()
    second.close()
