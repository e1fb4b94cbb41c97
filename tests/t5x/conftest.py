"""What the tests of T5X share."""

import gin
import pytest


@pytest.fixture(autouse=True)
def no_gin_bindings():
    """Bindings that an earlier test left would be looked at for mistyped macros."""
    gin.clear_config(clear_constants=True)
