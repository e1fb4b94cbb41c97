"""How far a device's arithmetic is from float32: a small T5's logits, and attention by itself.

    python benchmarks/precision.py                              # on whatever device JAX has
    JAX_PLATFORMS=cpu python benchmarks/precision.py

The last line is a JSON object of relative differences, |found - exact| / |exact|:
  logits        of a T5 1.1 with random weights, 3 layers, sources of 300 tokens, from those of
                Hugging Face's T5 in float32 on the CPU, by dtype, attention and precision of
                products ("default" is JAX's own, "highest" is float32).
  attention     outputs and gradients in bfloat16 by each attention that the device has, the
                largest over lengths, with and without a bias, from its definition in float32.
"""

import dataclasses
import itertools
import json
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from dpt_jax.interop import load_backbone
from dpt_jax.models import Transformer
from dpt_jax.models.attention import attend

LENGTHS = ((612, 612), (131, 151), (37, 61), (16, 612), (1, 612))
ON_GPU = jax.default_backend() == "gpu"
ATTENTIONS = ("plain", "cudnn") if ON_GPU else ("plain",)


def logits() -> dict[str, float]:
    """The difference from Hugging Face's logits, by setting."""
    import torch
    import transformers

    torch.manual_seed(0)
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=512,
            d_model=256,
            d_kv=64,
            d_ff=512,
            num_layers=3,
            num_heads=8,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            pad_token_id=0,
            decoder_start_token_id=0,
        )
    ).eval()
    rng = np.random.default_rng(0)
    source, target = (rng.integers(2, 512, (4, n)).astype(np.int32) for n in (300, 12))
    source[1, 200:] = 0
    given = np.pad(target[:, :-1], ((0, 0), (1, 0)))
    with torch.no_grad():
        exact = theirs(
            input_ids=torch.as_tensor(source),
            attention_mask=torch.as_tensor(source > 0),
            decoder_input_ids=torch.as_tensor(given),
        ).logits.numpy()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        config, params = load_backbone(folder)
        params = jax.tree.map(jnp.array, params)

    def ours(attention, dtype):
        model = Transformer(dataclasses.replace(config, attention=attention, dtype=dtype))
        apply = jax.jit(
            lambda params: model.apply(
                {"params": params}, source, given, target, enable_dropout=False
            )
        )
        return apply(params)

    found = {}
    for precision, dtype in (
        ("highest", "float32"),
        ("default", "float32"),
        ("default", "bfloat16"),
    ):
        for attention in ATTENTIONS if dtype == "bfloat16" else ("plain",):
            with jax.default_matmul_precision(precision):
                found[f"{dtype} {attention} {precision}"] = difference(
                    ours(attention, dtype), exact
                )
    return found


def attention() -> dict[str, float]:
    """The largest difference of each attention's output and of its gradients, over all cases."""
    found: dict[str, float] = {}
    for lengths, with_bias, causal in itertools.product(LENGTHS, (True, False), (False, True)):
        if causal and lengths[0] == 16:
            # Cross-attention, which is not.
            continue
        operands, key_mask, target = _operands(*lengths)
        operands = operands if with_bias else (*operands[:3], None)
        exact = _with_gradients("plain", operands, key_mask, target, causal, jnp.float32)
        for name in ATTENTIONS:
            ours = _with_gradients(name, operands, key_mask, target, causal, jnp.bfloat16)
            for what, one, other in zip(("output", *["gradients"] * 4), ours, exact, strict=False):
                key = f"{name} {what}"
                found[key] = max(found.get(key, 0.0), difference(one, other))
    return found


def _operands(query: int, key: int):
    """Queries, keys, values and bias that bfloat16 holds exactly, a key mask, and a cotangent."""
    rng = np.random.default_rng(0)

    def drawn(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.bfloat16)

    queries = drawn(4, 8, query, 64, scale=0.25)
    operands = queries, drawn(4, 8, key, 64), drawn(4, 8, key, 64), drawn(1, 8, query, key)
    key_mask = np.arange(key) < rng.integers(1, key + 1, (4, 1))
    return operands, jnp.asarray(key_mask), drawn(4, 8, query, 64)


def _with_gradients(name, operands, key_mask, target, causal, dtype):
    operands = [None if x is None else x.astype(dtype) for x in operands]
    differentiated = tuple(i for i, x in enumerate(operands) if x is not None)

    def loss(*operands):
        out = attend(*operands, key_mask, causal, implementation=name)
        return jnp.sum(out.astype(jnp.float32) * target.astype(jnp.float32)), out

    with jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default"):
        gradients, out = jax.jit(jax.grad(loss, differentiated, has_aux=True))(*operands)
    return out, *gradients


def difference(found, exact) -> float:
    """The relative difference of two arrays."""
    found, exact = (np.asarray(x, np.float64) for x in (found, exact))
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "device": jax.devices()[0].device_kind,
                "logits": logits(),
                "attention": attention(),
            }
        )
    )
