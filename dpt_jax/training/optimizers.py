"""Optimizers that Optax has no single function for; gin names them as it names Optax's own."""

from typing import Any

import jax
import optax


def sgd_with_decay(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """SGD with momentum and L2 decay of everything but the head's bias, as PyTorch's.

    The decay is added to the gradient before the momentum, not after it as in AdamW (Jia et al.,
    "Visual Prompt Tuning", ECCV 2022, and Le et al., "Revisiting Prefix-tuning", ICLR 2025, train
    vision transformers so).

    Args:
      learning_rate: a rate or a schedule.
      momentum: of the sum of gradients.
      weight_decay: what a weight is multiplied by, to be added to its gradient.
    """

    def decayed(params: Any) -> Any:
        def one(path: Any, _: Any) -> bool:
            names = [key.key for key in path]
            return not (names[0] in ("head", "prompt_head") and names[-1] == "bias")

        return jax.tree_util.tree_map_with_path(one, params)

    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed), optax.sgd(learning_rate, momentum)
    )
