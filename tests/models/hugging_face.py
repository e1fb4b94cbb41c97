"""Random T5s of Hugging Face Transformers, the independent side of the parity tests."""

import numpy as np

# Heads times head width is 24 and 40, never the model's width of 32, so that no two axes of a
# kernel can be mixed up unnoticed.
SIZES = {"d_model": 32, "d_ff": 48, "vocab_size": 96, "num_decoder_layers": 2}
FORMS = {
    "t5_1_0": {
        "num_heads": 4,
        "d_kv": 6,
        "num_layers": 3,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    "t5_1_1": {
        "num_heads": 5,
        "d_kv": 8,
        "num_layers": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}


def random_t5(form: str, seed: int = 0):
    """A T5 in evaluation mode whose every parameter is random, norms and biases included."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    generator = torch.Generator().manual_seed(seed)
    config = T5Config(**SIZES, **FORMS[form], dropout_rate=0.0, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    if not FORMS[form]["tie_word_embeddings"]:
        # Transformers ties the two in every new model; a pretrained T5 1.1 has two.
        model.lm_head.weight = torch.nn.Parameter(torch.empty(SIZES["vocab_size"], 32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "layer_norm" in name:
                parameter.copy_(1 + 0.3 * noise)
            elif "relative_attention_bias" in name or "shared" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model


def random_batch(source_length: int, target_length: int, batch: int = 3, seed: int = 0):
    """Sources and targets of every length up to the given ones, zero-padded, int32."""
    rng = np.random.default_rng(seed)

    def tokens(length):
        lengths = np.linspace(length, 1, batch).astype(int)
        real = np.arange(length)[None] < lengths[:, None]
        return np.where(real, rng.integers(2, SIZES["vocab_size"], (batch, length)), 0).astype(
            np.int32
        )

    source, target = tokens(source_length), tokens(target_length)
    decoder_input = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
    return source, decoder_input, target
