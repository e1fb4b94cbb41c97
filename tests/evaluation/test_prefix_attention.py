"""The attention that a prefix gets, against the weights of a T5 in NumPy."""

import dataclasses

import numpy as np
import pytest

from dpt_jax.evaluation.prefix_attention import attention_mass
from dpt_jax.models import Transformer
from dpt_jax.prefixes import STACKS, FreePrefix
from tests.models import numpy_t5
from tests.models.random_weights import random_parameters
from tests.models.test_prefixes import CONFIG, SOURCE, TARGET, N


def batch_of(source, target):
    inputs = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": target,
    }


# Shorter targets than a head is wide meet cross-attention in another form.
@pytest.mark.slow
@pytest.mark.parametrize(("length", "layers"), [(8, "all"), (4, "first")])
def test_the_mass_is_that_of_attention_in_numpy_and_padding_does_not_count(length, layers):
    backbone, rng = random_parameters(CONFIG), np.random.default_rng(5)
    config = dataclasses.replace(CONFIG, remat_policy="full")
    prefix = FreePrefix(N, STACKS, layers)
    count = (
        {"encoder": 3, "decoder": 2, "cross": 2} if layers == "all" else dict.fromkeys(STACKS, 1)
    )
    arrays = {
        f"{stack}_{kind}": rng.normal(size=(count[stack], N, 3, 6)).astype(np.float32)
        for stack in STACKS
        for kind in ("keys", "values")
    }
    batch, rows = batch_of(SOURCE, TARGET[:, :length]), []
    for source, decoder_input in zip(SOURCE, batch["decoder_input_tokens"], strict=True):
        rows.append(numpy_t5.prefix_mass(CONFIG, backbone, source, decoder_input, arrays))
    padded = batch_of(
        np.pad(SOURCE, ((0, 0), (0, 3))), np.pad(TARGET[:, :length], ((0, 0), (0, 1)))
    )
    model = Transformer(config, None, prefix)
    for given in (batch, padded):
        found = attention_mass(model, backbone | {"prefix": arrays}, given)
        assert found.keys() == rows[0].keys() == set(STACKS)
        for stack in STACKS:
            expected = np.mean([row[stack].mean(axis=1) for row in rows], axis=0)
            assert found[stack].shape == (count[stack], 3)
            np.testing.assert_allclose(found[stack], expected, rtol=2e-4)
