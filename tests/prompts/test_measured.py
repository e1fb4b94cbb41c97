"""Prompts that start at a measured norm: the norm of their rows, and what is refused."""

import math

import jax
import numpy as np
import pytest

from dpt_jax.prompts import (
    DecomposedPrompt,
    ResidualNorm,
    SpectralPrompt,
    VanillaPrompt,
    at_residual_norm,
    bind_residual_norm,
    gaussian,
    needs_residual_norm,
)

LENGTH, WIDTH, NORM = 4000, 64, 50.0
FACTORS = {"a_init": ResidualNorm("A"), "b_init": ResidualNorm("B")}
PROMPTS = {
    "vanilla": VanillaPrompt(LENGTH, WIDTH, prompt_init=ResidualNorm()),
    "decomposed": DecomposedPrompt(LENGTH, WIDTH, 32, **FACTORS),
    # Its U is [length, length].
    "spectral": SpectralPrompt(500, WIDTH, v_init=ResidualNorm()),
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_rows_start_at_the_norm(prompt):
    bound = bind_residual_norm(prompt, lambda: NORM)
    rows = prompt.fold(bound.initialize(jax.random.key(0)))
    norm = math.sqrt((np.linalg.norm(rows, axis=1) ** 2).mean())
    # Both factors are random: with b = 32 the product varies by about a tenth.
    assert norm == pytest.approx(NORM, rel=0.15)


@pytest.mark.parametrize("bottleneck", [1, 4])
def test_factors_have_equal_entries_whatever_the_bottleneck(bottleneck):
    wide = DecomposedPrompt(3000, 3000, bottleneck, **FACTORS)
    params = bind_residual_norm(wide, lambda: NORM).initialize(jax.random.key(1))
    expected = (NORM**2 / (bottleneck * 3000)) ** 0.25
    for factor in params.values():
        assert np.std(factor) == pytest.approx(expected, rel=0.04)


def test_a_multiple_is_one_of_the_norm():
    once, twice = (
        bind_residual_norm(VanillaPrompt(9, 8, prompt_init=ResidualNorm(multiple=m)), lambda: NORM)
        for m in (1.0, 2.0)
    )
    key = jax.random.key(0)
    np.testing.assert_allclose(2 * once.initialize(key)["prompt"], twice.initialize(key)["prompt"])


def test_only_first_values_that_nobody_chose_are_replaced():
    found = at_residual_norm(DecomposedPrompt(5, 8, 2))
    assert (found.a_init, found.b_init) == (ResidualNorm("A"), ResidualNorm("B"))
    assert at_residual_norm(SpectralPrompt(5, 8)).v_init == ResidualNorm()
    chosen = DecomposedPrompt(5, 8, 2, a_init=gaussian(2.0))
    assert at_residual_norm(chosen).a_init is chosen.a_init
    assert at_residual_norm(PROMPTS["vanilla"]) is PROMPTS["vanilla"]


def test_nothing_is_measured_for_another_start():
    prompt = VanillaPrompt(3, 8, prompt_init=gaussian())
    assert not needs_residual_norm(prompt) and not needs_residual_norm(None)
    assert bind_residual_norm(prompt, lambda: 1 / 0) is prompt
    assert needs_residual_norm(PROMPTS["vanilla"])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="factor is 'C'"):
        ResidualNorm("C")
    with pytest.raises(ValueError, match=r"multiple is 0.*--gin.measured.ResidualNorm.multiple"):
        ResidualNorm(multiple=0.0)
    with pytest.raises(ValueError, match="needs the frozen model .*bind_residual_norm"):
        PROMPTS["vanilla"].initialize(jax.random.key(0))
    for norm in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"norm is {norm}.*INITIAL_CHECKPOINT_PATH"):
            bind_residual_norm(PROMPTS["vanilla"], lambda norm=norm: norm)
