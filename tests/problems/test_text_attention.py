"""What a run's attention lies on, beside the prefix's share as `attention_mass` has it."""

import dataclasses

import numpy as np
import pytest

from dpt_jax.evaluation.prefix_attention import attention_mass
from dpt_jax.interop.adapters import Adapter
from dpt_jax.interop.prefixes import FoldedPrefix
from dpt_jax.prefixes import FreePrefix
from dpt_jax.problems import text, text_attention
from tests.support import runs

pytestmark = pytest.mark.slow
P, N = 5, 2


@pytest.mark.parametrize("layers", ["all", "first"])
def test_the_decoders_own_attention_counts_its_prefix_alone(tmp_path, layers):
    """Its keys begin with the prefix, and no prompt stands behind it."""
    shape, rng = dataclasses.replace(runs.T5, num_decoder_layers=3), np.random.default_rng(0)
    prefix = FreePrefix(N, ("decoder",), layers)
    config = runs.run_config(tmp_path, "", model=shape, prompt=None, prefix=prefix)
    prepared = text.prepare(dataclasses.replace(config, initial_checkpoint_path=None))
    size = (shape.num_decoder_layers if layers == "all" else 1, N, shape.num_heads, shape.head_dim)
    arrays = {f"decoder_{kind}": rng.normal(size=size) for kind in ("keys", "values")}
    prefix = FoldedPrefix({name: array.astype(np.float32) for name, array in arrays.items()})
    adapter = Adapter(rng.normal(size=(P, runs.WIDTH)).astype(np.float32), prefix)
    count = 8  # Of the first batch.
    found = text_attention.measure(prepared, adapter, "train", count)
    assert list(found.shares) == ["prompt", "text", "decoder", "decoder, of itself"]

    looked_at, params = text_attention.on_split(prepared, adapter, "train")
    batch = looked_at.data.batch(0)
    filled = np.flatnonzero(batch["encoder_input_tokens"].any(axis=1))
    alone = [{name: array[[i]] for name, array in batch.items()} for i in filled[:count]]
    masses = [attention_mass(looked_at.folded_model, params, one)["decoder"] for one in alone]
    share, ratio = found.shares["decoder, of itself"], found.selections["decoder, of itself"].ratio
    np.testing.assert_allclose(share[: len(masses[0])], np.mean(masses, axis=0), rtol=1e-5)
    # A target's query sees the prefix, and the targets up to its own.
    lengths = [np.count_nonzero(one["decoder_target_tokens"]) for one in alone]
    even = [np.mean(N / (N + np.arange(1, length + 1))) for length in lengths]
    expected = np.mean([mass / e for mass, e in zip(masses, even, strict=True)], axis=0)
    np.testing.assert_allclose(ratio[: len(expected)], expected, rtol=1e-5)
    # Layers without a prefix have nothing of it.
    assert not share[len(expected) :].any() and not ratio[len(expected) :].any()
    assert len(share) == shape.num_decoder_layers
