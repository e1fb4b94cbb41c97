"""The part of a T5 that an operation of a compiled program belongs to, by its name in there."""

import re

#: The first pattern that a name matches says its part.
PARTS = (
    ("layer norms", r"layer_norm|(en|de)coder_norm"),
    ("projections of attention", r"attention(\.project_memory)?/(query|key|value|out)/"),
    ("attention of the encoder, without its projections", r"/encoder/.*attention"),
    ("attention of the decoder, without its projections", r"/decoder/.*attention"),
    ("MLP", r"/mlp/"),
    ("position bias", r"relpos_bias"),
    ("embedding, logits and loss", r"token_embedder|logits|log_softmax|loss"),
    ("residual connections", r"/layers_\d+/"),
)


def part_of(name: str) -> str:
    """The part, or "other"; a gradient's operations belong to what they are the gradient of."""
    return next((part for part, pattern in PARTS if re.search(pattern, name)), "other")
