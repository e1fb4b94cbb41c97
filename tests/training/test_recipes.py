"""Recipes read without gin say what gin makes of the same files."""

import optax
import pytest

from dpt_jax.errors import InputError
from dpt_jax.training import recipes, schedules
from tests.training.test_gin import T5_SMALL, config_of, updates_of


class Fields:
    def __init__(self, fields):
        self.__dict__ |= fields


@pytest.mark.parametrize("peak", [None, 0.01])
@pytest.mark.parametrize("name", ["fast", "paper", "released"])
def test_a_recipe_is_what_gin_makes_of_its_file(name, peak):
    bindings = [] if peak is None else [f"LEARNING_RATE_PEAK = {peak}"]
    expected = config_of([*T5_SMALL, f"recipes/{name}.gin"], bindings)
    found = recipes.read(name, peak)
    for field in set(recipes.FIELDS) - {"optimizer", "learning_rate"}:
        assert found[field] == getattr(expected, field), field
    assert updates_of(Fields(found), 20) == updates_of(expected, 20)


def test_the_names_are_those_of_whole_recipes():
    assert recipes.names() == ["fast", "paper", "released"]
    for part in ("tpu", "finetune"):
        with pytest.raises(InputError, match=f"no recipe '{part}'"):
            recipes.read(part)


def test_an_optimizer_and_a_rate_take_the_places_of_the_recipes():
    settings, said = recipes.with_changes("paper", optax.lion, 0.02)
    assert settings["optimizer"] is optax.lion and settings["learning_rate"](9)(3) == 0.02
    assert said["optimizer"].endswith("lion") and "peak=0.02" in said["learning_rate"]
    schedule = schedules.linear_warmup_linear_decay(10)
    settings, _ = recipes.with_changes("released", learning_rate=schedule)
    assert settings["learning_rate"](10) is schedule
    made = optax.sgd(0.5)
    settings, said = recipes.with_changes("paper", made)
    assert settings["optimizer"](None) is made and "learning_rate" not in said
