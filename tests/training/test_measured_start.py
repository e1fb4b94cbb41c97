"""A run whose prompt starts at a norm that is measured on its backbone."""

import dataclasses
import json

import numpy as np
import pytest

from dpt_jax.errors import InputError
from dpt_jax.models.residual_norm import residual_norm
from dpt_jax.problems import text
from dpt_jax.prompts import ResidualNorm, VanillaPrompt
from tests.support import runs

PROMPT = VanillaPrompt(runs.PROMPT_LENGTH, runs.WIDTH, prompt_init=ResidualNorm())


@pytest.mark.slow
def test_the_run_keeps_the_norm_of_its_own_backbone(backbone, tmp_path):
    config = runs.run_config(tmp_path, backbone, prompt=PROMPT)
    problem = text.prepare(config).problem()
    # On what the task gives first.
    rows = [row[:64] for row in problem.data.tasks[0].inputs[:16]]
    tokens = np.stack([np.pad(row, (0, 64 - len(row))) for row in rows])
    measured = residual_norm(runs.T5, runs.random_parameters(), tokens)
    assert json.loads(json.dumps(problem.files["start.json"])) == {"residual_norm": measured}
    norms = (problem.params["prompt"]["prompt"] ** 2).sum(axis=1) ** 0.5
    assert norms.mean() == pytest.approx(measured, rel=0.3)


@pytest.mark.slow
def test_random_weights_are_not_measured(tmp_path):
    config = runs.run_config(tmp_path, None, prompt=PROMPT)
    config = dataclasses.replace(config, initial_checkpoint_path=None)
    with pytest.raises(InputError, match="INITIAL_CHECKPOINT_PATH is None.*without _measured"):
        text.prepare(config).problem()
