"""A part of a stored array is read without the rest."""

import numpy as np
import pytest
import tensorstore as ts

from dpt_jax import tensors
from dpt_jax.errors import InputError
from dpt_jax.interop.t5x_checkpoint import open_array
from dpt_jax.tensors import ALIGNMENT, Tensor, as_used

ARRAY = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
REGIONS = [
    (slice(0, 10), slice(0, 7)),
    (slice(3, 8), slice(2, 7)),
    (slice(4, 5), slice(0, 1)),
    (slice(9, 10), slice(5, 7)),
]


@pytest.fixture
def stored(tmp_path):
    spec = {"driver": "zarr", "kvstore": f"file://{tmp_path}/x/"}
    layout = {"metadata": {"chunks": [4, 3]}, "create": True}
    store = ts.open(
        spec | layout, dtype=ts.float32, shape=ARRAY.shape, dimension_units=None
    ).result()
    store.write(ARRAY).result()
    return open_array(spec, "x")


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_of_a_chunked_array_is_that_of_the_array(stored, region):
    np.testing.assert_array_equal(stored.stored(region), ARRAY[region])
    turned = region[::-1]
    np.testing.assert_array_equal(stored.transposed().stored(turned), ARRAY.T[turned])
    np.testing.assert_array_equal(stored.load(), ARRAY)


def test_no_chunk_outside_the_region_is_read(stored, tmp_path):
    (tmp_path / "x" / "0.0").unlink()
    region = (slice(4, 10), slice(0, 7))
    np.testing.assert_array_equal(stored.stored(region), ARRAY[region])
    with pytest.raises(InputError, match="Parameter x cannot be read"):
        stored.stored((slice(3, 10), slice(0, 7)))


def test_what_jax_uses_is_aligned_and_copied_only_where_it_must_be():
    wide = as_used(ARRAY[:, 1:], np.dtype(np.float32))
    assert wide.ctypes.data % ALIGNMENT == 0 and wide.flags.c_contiguous
    np.testing.assert_array_equal(wide, ARRAY[:, 1:])
    assert as_used(wide, np.dtype(np.float32)) is wide
    assert as_used(wide, np.dtype(np.float16)).dtype == np.float16


def test_a_tensor_is_an_array_to_numpy():
    tensor = Tensor(ARRAY.shape, np.dtype(np.float32), lambda: ARRAY.astype(np.float64))
    assert np.asarray(tensor).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(tensor, np.float64), ARRAY.astype(np.float64))


def test_the_pages_of_a_piece_are_let_go_before_the_next_is_read(monkeypatch):
    monkeypatch.setattr(tensors, "_BLOCK_BYTES", 4 * ARRAY[0].nbytes)
    released = []
    tensor = Tensor(ARRAY.shape, ARRAY.dtype, lambda: ARRAY, lambda: released.append(True))
    sizes = [(len(block), len(released)) for block in tensor.blocks()]
    assert sizes == [(4, 0), (4, 1), (2, 2)] and len(released) == 3
