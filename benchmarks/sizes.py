"""What is measured, in numbers that both sides are built from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """A T5 1.0's shape, its prompt, and a batch."""

    vocab_size: int = 32128
    emb_dim: int = 512
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    num_layers: int = 6
    prompt_length: int = 100
    bottleneck: int = 10
    prefix_length: int = 20
    batch_size: int = 16
    source_length: int = 128
    target_length: int = 8
    matmul: int = 4096


T5_SMALL = Size()
TINY = Size(
    vocab_size=96,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_layers=1,
    prompt_length=4,
    bottleneck=2,
    prefix_length=3,
    batch_size=4,
    source_length=8,
    target_length=3,
    matmul=64,
)
LEARNING_RATE = 0.3
WEIGHT_DECAY = 1e-4
