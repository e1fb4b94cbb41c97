"""A prefix of rows that the frozen layer itself turns into keys and values."""

from dpt_jax.prefixes.base import KeysValues, Prefix, Stack
from dpt_jax.prompts.initializers import Initializer, gaussian


class SimpleSharedPrefix(Prefix):
    """One row a token and layer, taken through the layer's frozen projections: layers · N · D.

    Key and value are `norm(p) W_K` and `norm(p) W_V` of one row p, as those of a token are. This is
    *Simple-share* of Le et al., "Revisiting Prefix-tuning", ICLR 2025, in the form of the authors'
    vision code. The norm is the one that the layer's real keys have come through: the layer's own
    in self-attention, and in cross-attention the encoder's last.

    Attributes:
        normalize: take the row through that norm. The paper's theorem 2 treats the form without.
        rows_init: draws `<stack>_rows`, `[layers, N, D]`.

    Raises:
        ValueError: as `Prefix`.
    """

    normalize: bool = True
    rows_init: Initializer = gaussian(1.0)

    def keys_and_values(self, stack: Stack) -> KeysValues:
        """Projects the rows; see `Prefix.keys_and_values`."""
        rows = self.declare(
            stack,
            "rows",
            self.rows_init,
            (stack.num_layers, self.length, stack.embed_dim),
            *("prefix_layers", "prefix_length", "prompt_embed"),
        )
        return stack.project(rows, self.normalize)
