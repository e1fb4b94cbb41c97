"""T5 folders of Hugging Face Transformers: names, configuration, and the files they come in.

PyTorch stores a linear map's weight as `[out, in]`, T5X its kernel as `[in, out]`; the relative
position table is `[buckets, heads]` there and `[heads, buckets]` here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import InputError
from dpt_jax.interop.safetensors_file import open_safetensors
from dpt_jax.interop.tensors import BFLOAT16, Tensor, parameter_shapes
from dpt_jax.models import T5Config

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
WEIGHT_FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")

_HEAD = "lm_head.weight"
_EMBEDDING = "shared.weight"
# Copies of `shared.weight`, and a table that the first T5 releases stored and no model reads.
_UNUSED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
}
# What the network has built in, as config.json spells it.
_FIXED = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}


def weight_name(name: str) -> tuple[str, bool]:
    """Hugging Face's name of one of our parameters, and whether its axes are the other way round.

    >>> weight_name("decoder/layers_3/encoder_decoder_attention/out/kernel")
    ('decoder.block.3.layer.1.EncDecAttention.o.weight', True)
    """
    if name == "token_embedder/embedding":
        return _EMBEDDING, False
    if name == "decoder/logits_dense/kernel":
        return _HEAD, True
    stack, part, *rest = name.split("/")
    if part == "relpos_bias":
        return f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", True
    if part == f"{stack}_norm":
        return f"{stack}.final_layer_norm.weight", False
    index = part.removeprefix("layers_")
    mlp = 1 if stack == "encoder" else 2
    blocks = {
        "attention": (0, "SelfAttention"),
        "self_attention": (0, "SelfAttention"),
        "encoder_decoder_attention": (1, "EncDecAttention"),
        "cross_attention": (1, "EncDecAttention"),
        "mlp": (mlp, "DenseReluDense"),
    }
    block = rest[0].removeprefix("pre_").removesuffix("_layer_norm")
    layer, kind = blocks[block]
    prefix = f"{stack}.block.{index}.layer.{layer}"
    if rest[0].endswith("_layer_norm"):
        return f"{prefix}.layer_norm.weight", False
    return f"{prefix}.{kind}.{_PROJECTIONS.get(rest[1], rest[1])}.weight", True


def open_folder(folder: Path) -> tuple[T5Config, dict[str, Tensor]]:
    """Opens a folder: its `T5Config` and its tensors under our names and axes.

    Tensors that the folder lacks are left out of the table; the caller's check names them.

    Raises:
      InputError: the folder is not a whole encoder-decoder T5 of the forms the network knows.
    """
    raw = read_json(folder / "config.json")
    weights = _open_weights(folder)
    if not any(name.startswith("decoder.block.") for name in weights):
        raise InputError(
            f"{folder} holds an encoder without a decoder; a whole T5 (encoder-decoder) is needed. "
            "Change INITIAL_CHECKPOINT_PATH."
        )
    config = config_from_hugging_face(raw, str(folder))
    config, weights = _settle_output_projection(folder, raw, config, weights)

    tensors = {}
    names = {}
    for ours in parameter_shapes(config):
        theirs, transposed = weight_name(ours)
        names[theirs] = ours
        if theirs in weights:
            tensor = weights[theirs].as_weight(f"{folder}: {theirs}")
            tensors[ours] = tensor.transposed() if transposed else tensor
    unknown = [name for name in weights if name not in names and name not in (*_UNUSED, _HEAD)]
    if unknown:
        raise InputError(
            f"{folder} holds {len(unknown)} tensor(s) that its config.json does not account for, "
            f"the first {unknown[0]} {weights[unknown[0]].shape}. Change INITIAL_CHECKPOINT_PATH, "
            "or copy the folder again."
        )
    return config, tensors


def config_from_hugging_face(raw: Mapping[str, Any], where: str) -> T5Config:
    """Makes a `T5Config` of the contents of a T5's `config.json`.

    `logits_via_embedding` is what the file says; whether the weights agree is seen when they are
    opened. Dropout is the user's choice and starts at 0.

    Raises:
      InputError: another kind of model, or a T5 that the network does not know.
    """
    kind = raw.get("model_type")
    if kind not in ("t5", "mt5"):
        raise InputError(
            f"{where}: config.json says model_type {kind!r}; known are 't5' (T5 1.0 and 1.1, "
            "LM-adapted, Flan, ByT5) and 'mt5'. Change INITIAL_CHECKPOINT_PATH."
        )
    if raw.get("is_encoder_decoder") is False:
        raise InputError(
            f"{where}: config.json says is_encoder_decoder false, but an encoder-decoder is "
            "needed. Change INITIAL_CHECKPOINT_PATH."
        )
    for name, value in _FIXED.items():
        if raw.get(name, value) != value:
            raise InputError(
                f"{where}: config.json says {name} {raw[name]}; only {value} is known."
            )
    # The two classes differ in their default.
    mlp = raw.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
    if mlp not in _ACTIVATIONS:
        raise InputError(
            f"{where}: config.json says feed_forward_proj {mlp!r}; known are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    try:
        layers = raw["num_layers"]
        return T5Config(
            vocab_size=raw["vocab_size"],
            emb_dim=raw["d_model"],
            num_heads=raw["num_heads"],
            num_encoder_layers=layers,
            num_decoder_layers=raw.get("num_decoder_layers") or layers,
            head_dim=raw["d_kv"],
            mlp_dim=raw["d_ff"],
            mlp_activations=_ACTIVATIONS[mlp],
            dropout_rate=0.0,
            logits_via_embedding=_scales_outputs(raw),
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: config.json does not describe a T5: {error}.") from error


def _scales_outputs(raw: Mapping[str, Any]) -> bool:
    # T5 1.0 multiplies the decoder's output by 1/sqrt(D), T5 1.1 does not. Transformers once took
    # this from tie_word_embeddings; since version 5 it writes that as true for every T5, and the
    # scale as an entry of its own. Its mT5 has neither.
    if raw.get("model_type") != "t5":
        return False
    return bool(raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True) is not False))


def _settle_output_projection(folder, raw, config, weights):
    """Tells tied from untied by the weights; returns config and weights that say so."""
    head, embedding = weights.get(_HEAD), weights.get(_EMBEDDING)
    if config.logits_via_embedding:
        if head is not None and embedding is not None and not _equal(head, embedding):
            raise InputError(
                f"{folder}: {_HEAD} differs from {_EMBEDDING}, but config.json says that they are "
                'one (T5 1.0). For T5 1.1 set "tie_word_embeddings" and "scale_decoder_outputs" '
                "to false there."
            )
    elif head is None and embedding is not None and raw.get("tie_word_embeddings", True):
        # Tied without T5 1.0's scale: the same numbers serve as the output projection.
        weights = {**weights, _HEAD: embedding}
    return config, weights


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and np.array_equal(a.read(), b.read())


def _open_weights(folder: Path) -> dict[str, Tensor]:
    for name, opener in ((SAFETENSORS, open_safetensors), (PICKLE, _open_pickle)):
        if (folder / name).exists():
            return opener(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            return _open_shards(index, opener)
    raise InputError(
        f"{folder} has a config.json but no weights: none of {', '.join(WEIGHT_FILES)}. "
        "Copy it again, or change INITIAL_CHECKPOINT_PATH."
    )


def _open_shards(index: Path, opener) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map. Copy the folder again.")
    tensors = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / Path(shard).name
        if not path.exists():
            count = sum(1 for file in weight_map.values() if file == shard)
            raise InputError(
                f"{path} is missing: {index.name} places {count} tensors in it. Copy it there, or "
                "change INITIAL_CHECKPOINT_PATH."
            )
        tensors.update(opener(path))
    return tensors


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} needs PyTorch to be read: install dpt-jax[interop], or give a folder with "
            f"{SAFETENSORS}."
        ) from error
    import pickle

    def load(mapped: bool):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    try:
        try:
            state = load(True)
        except RuntimeError:
            # Files from before PyTorch 1.6 cannot be mapped.
            state = load(False)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it holds more than tensors, and reading it could run any code. "
            f"Give a folder with {SAFETENSORS}."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). It may be half written or half copied; copy it "
            "again, or change INITIAL_CHECKPOINT_PATH."
        ) from error
    return {name: _torch_tensor(value) for name, value in state.items()}


def _torch_tensor(value) -> Tensor:
    import torch

    if value.dtype == torch.bfloat16:
        # NumPy has no bfloat16 of its own, so that PyTorch does not hand it over as such.
        bits = value.view(torch.int16)
        return Tensor(tuple(value.shape), BFLOAT16, lambda: bits.numpy().view(BFLOAT16))
    return Tensor(
        tuple(value.shape), np.dtype(str(value.dtype).removeprefix("torch.")), value.numpy
    )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      InputError: the file cannot be read, is not JSON, or holds something else.
    """
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds {type(raw).__name__}, not a JSON object.")
    return raw
