"""`benchmarks/precision.py` measures against what is exact."""

import pytest

from benchmarks import precision


@pytest.mark.slow
@pytest.mark.interop
def test_logits_are_hugging_faces_to_the_rounding_of_the_dtype():
    found = precision.logits()
    assert 0 < found["float32 plain highest"] < 1e-5
    assert 1e-3 < found["bfloat16 plain default"] < 3e-2


@pytest.mark.slow
def test_attention_in_bfloat16_is_as_far_from_exact_as_its_rounding(monkeypatch):
    monkeypatch.setattr(precision, "LENGTHS", ((9, 12),))
    found = precision.attention()
    assert set(found) == {"plain output", "plain gradients"}
    assert all(1e-3 < error < 3e-2 for error in found.values())
