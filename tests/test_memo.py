"""What is computed once for equal models, and what cannot be."""

import numpy as np
from flax import linen as nn

from dpt_jax.memo import memoized
from dpt_jax.models import Transformer
from dpt_jax.models.network import abstract_variables
from dpt_jax.prompts.base import SoftPrompt
from tests.support import runs


def test_equal_arguments_are_computed_once_and_what_has_no_hash_each_time():
    asked = []

    @memoized
    def double(x):
        """Twice x."""
        asked.append(x)
        return x * 2

    assert [double((1, 2)), double((1, 2)), double(3)] == [(1, 2, 1, 2), (1, 2, 1, 2), 6]
    assert [double([1]), double([1])] == [[1, 1], [1, 1]]
    assert asked == [(1, 2), 3, [1], [1]] and double.__doc__ == "Twice x."


def test_a_prompt_with_an_array_as_a_field_is_no_key_and_works():
    class Shifted(SoftPrompt):
        by: np.ndarray | None = None

        @nn.compact
        def __call__(self):
            shape = (self.length, self.embed_dim)
            return self.by + self.param("shift", nn.initializers.zeros_init(), shape)

    config = runs.T5
    prompt = Shifted(3, config.emb_dim, by=np.ones(config.emb_dim, np.float32))
    found = abstract_variables(Transformer(config, prompt))["params"]
    shifts = list(found["prompt"].values())
    assert [x.shape for x in shifts] == [(3, config.emb_dim)]
