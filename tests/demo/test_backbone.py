"""The committed backbone does what it was pretrained for, and nothing of the tasks unprompted."""

import numpy as np
import pytest
import sentencepiece

from dpt_jax.demo import BACKBONE_DIR, TASKS, VOCABULARY, pretrain, skills, superglue
from dpt_jax.interop import load_backbone
from dpt_jax.models import Transformer


@pytest.fixture(scope="module")
def backbone():
    config, params = load_backbone(BACKBONE_DIR)
    encode = sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY)).encode
    return Transformer(config), params, encode


@pytest.mark.slow
def test_every_skill_is_right_on_texts_that_pretraining_never_saw(backbone):
    # Another seed than the one that decided whether to keep the weights.
    accuracies = pretrain.skill_accuracies(*backbone, examples=96, seed=1)
    assert set(accuracies) == set(skills.SKILLS)
    assert not {skill: value for skill, value in accuracies.items() if value < 0.93}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_without_a_prompt_no_task_is_answered(backbone, task):
    model, params, encode = backbone
    texts = [superglue.text_to_text(task, row) for row in superglue.rows(task, "validation")]
    examples = (skills.Example(task, text["inputs"], text["targets"]) for text in texts)
    right = [
        np.asarray(pretrain.exact_matches(model, params, batch))
        for _, batch in pretrain.batches(examples, encode, 80)
    ]
    assert np.mean(right) < 0.02


def test_the_weights_are_small_and_their_size_is_as_stated(backbone):
    _, params, _ = backbone
    assert (BACKBONE_DIR / "model.safetensors").stat().st_size <= 4_000_000
    sizes = [leaf.size for leaf in _leaves(params)]
    assert 1_000_000 <= sum(sizes) <= 2_000_000


def _leaves(tree):
    for value in tree.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value
