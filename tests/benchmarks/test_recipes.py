"""What `benchmarks/recipes.py` trains, and what it makes of the scores."""

import math

import pytest

from benchmarks import recipe_tasks, recipes
from dpt_jax.data import text_tasks
from dpt_jax.prompts import VanillaPrompt


@pytest.mark.parametrize("recipe", ["fast", "adam"])
def test_a_backbone_of_another_width_has_prompts_of_its_own(recipe, backbone):
    config = recipes.config_of(recipe, "entailment", str(backbone), (5, 2), train_steps=7)
    width = config.model.emb_dim
    assert width != recipes.config_of(recipe, "entailment", None, (5, 2)).model.emb_dim
    assert (config.prompt.length, config.prompt.bottleneck) == (5, 2)
    assert (config.prompt.embed_dim, config.initial_checkpoint_path) == (width, str(backbone))
    assert config.train_steps == 7


def test_vanilla_prompts_and_a_part_of_the_rows_are_trained_too():
    config = recipes.config_of("fast_vanilla", "entailment_k16_s0", None, (5, 2))
    assert isinstance(config.prompt, VanillaPrompt) and config.prompt.length == 5
    task = text_tasks.find(recipe_tasks, config.mixture_or_task_name)
    assert len(task.read("train")) == 16
    assert len(task.read("validation")) == 200


def test_a_score_is_reached_where_it_stays():
    run = {"scores": [0.95, 0.5, 0.92, 0.91, 0.99]}
    assert [recipes.steps_to(run, score) for score in (0.4, 0.9, 0.98, 1)] == [
        20,
        60,
        100,
        math.inf,
    ]
    assert recipes.steps_to({"scores": None}, 0.9) == math.inf


def test_a_run_that_does_not_get_there_counts_as_after_the_longer_of_two():
    short = {"scores": [0.5, 0.7], "steps": 40}
    long = {"scores": [0.5, 0.7, 0.8, 0.95], "steps": 80}
    assert recipes.difference(short, long, 0.9) == 100 - 80
    assert recipes.difference(long, short, 0.9) == 80 - 100
    assert recipes.difference(short, long, 0.98) == 0
    assert recipes.difference(short, long, 0.7) == 0
    assert recipes.difference(short, long, None) == pytest.approx(-25)
    assert recipes.difference(long, {"scores": None, "steps": 80}, None) == 95


def test_seeds_are_a_list_or_a_range():
    assert recipes.seeds_of("0,3") == [0, 3]
    assert recipes.seeds_of("100-102") == [100, 101, 102]
