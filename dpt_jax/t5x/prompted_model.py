"""T5X's encoder-decoder model whose loss is a mean however many parts a batch is run in."""

import copy
from collections.abc import Mapping
from typing import Any

import jax
from t5x import losses, models


class PromptedModel(models.EncoderDecoderModel):
    """T5X's `EncoderDecoderModel` for a Trainer with `num_microbatches`.

    T5X adds up gradients and losses of the parts. That is right for a sum over tokens, but n parts
    with a mean each make both n times too large. So a part's mean is divided by n here. Each part
    has the same weight, whatever its number of tokens.
    """

    def __init__(self, *args: Any, microbatches: int | None = None, **settings: Any):
        """Takes T5X's arguments and the number of parts.

        Args:
          *args: T5X's.
          microbatches: MICROBATCHES, the Trainer's `num_microbatches`; None for one part.
          **settings: T5X's.
        """
        super().__init__(*args, **settings)
        self.microbatches = microbatches or 1

    def loss_fn(
        self, params: Any, batch: Mapping[str, jax.Array], dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """The loss of a part while training, of a whole batch without `dropout_rng`."""
        factor = self._loss_normalizing_factor
        # A number, or None, makes a sum over tokens of the loss.
        is_sum = not isinstance(factor, str | losses.SpecialLossNormalizingFactor)
        if is_sum or dropout_rng is None or self.microbatches == 1:
            return super().loss_fn(params, batch, dropout_rng)
        count, weights = losses.get_loss_normalizing_factor_and_weights(factor, batch)
        of_part = copy.copy(self)
        of_part._loss_normalizing_factor = self.microbatches * count
        batch = {**batch, "decoder_loss_weights": weights}
        return models.EncoderDecoderModel.loss_fn(of_part, params, batch, dropout_rng)
