"""What `benchmarks/recipes.py` trains."""

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


def test_seeds_are_a_list_or_a_range():
    assert recipes.seeds_of("0,3") == [0, 3]
    assert recipes.seeds_of("100-102") == [100, 101, 102]
