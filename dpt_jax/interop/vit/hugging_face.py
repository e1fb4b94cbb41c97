"""Folders of Transformers' ViT, in the layout on disk and in that of newer versions' memory."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.hugging_face import open_weights, read_json
from dpt_jax.interop.new_folder import new_folder
from dpt_jax.interop.safetensors_file import write_safetensors
from dpt_jax.interop.vit.parameters import HEAD, check_parameters, mapped, reshaped
from dpt_jax.models.vit import ViTConfig
from dpt_jax.tensors import Tensor, in_memory

_GELUS = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# Of other heads and of masked modelling; no classifier reads them.
_UNUSED = re.compile(r"(pooler\.dense|decoder\.0)\.(weight|bias)|embeddings\.mask_token")
# Layout B, what newer versions have in memory, and A, what is on disk.
_LAYOUT_A = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.([qkv])_proj\.", r".attention.attention.\1."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_QKV = {"q": "query", "k": "key", "v": "value"}
# Parts of a layer: ours, and theirs in layout A.
_LAYER = {
    "pre_attention_layer_norm": "layernorm_before",
    "attention/query": "attention.attention.query",
    "attention/key": "attention.attention.key",
    "attention/value": "attention.attention.value",
    "attention/out": "attention.output.dense",
    "pre_mlp_layer_norm": "layernorm_after",
    "mlp/wi": "intermediate.dense",
    "mlp/wo": "output.dense",
}


def in_layout_a(name: str) -> str:
    """The name on disk of a parameter in either layout, without the prefix `vit.`.

    >>> in_layout_a("vit.layers.3.attention.q_proj.weight")
    'encoder.layer.3.attention.attention.query.weight'
    """
    name = name.removeprefix("vit.")
    if name.startswith("layers."):
        for pattern, replacement in _LAYOUT_A:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"(attention\.attention\.)([qkv])\.", lambda m: m[1] + _QKV[m[2]] + ".", name)
    return name


def weight_names(config: ViTConfig) -> dict[str, str]:
    """Our name of each parameter, and that of layout A without its prefix."""
    names = {
        "patch_embedding/kernel": "embeddings.patch_embeddings.projection.weight",
        "patch_embedding/bias": "embeddings.patch_embeddings.projection.bias",
        "cls_token": "embeddings.cls_token",
        "position_embedding": "embeddings.position_embeddings",
        "encoder/encoder_norm/scale": "layernorm.weight",
        "encoder/encoder_norm/bias": "layernorm.bias",
    }
    for i in range(config.num_layers):
        for ours, theirs in _LAYER.items():
            weight = "scale" if ours.endswith("norm") else "kernel"
            names[f"encoder/layers_{i}/{ours}/{weight}"] = f"encoder.layer.{i}.{theirs}.weight"
            names[f"encoder/layers_{i}/{ours}/bias"] = f"encoder.layer.{i}.{theirs}.bias"
    if config.num_classes:
        names |= dict(zip(HEAD, ("classifier.weight", "classifier.bias"), strict=True))
    return names


def open_folder(folder: Path) -> tuple[ViTConfig, dict[str, Tensor], dict[str, Any]]:
    """Opens a folder: its sizes, its tensors under our names and axes, and its `config.json`.

    Tensors that the folder lacks are left out; the caller's check names them.

    Raises:
      InputError: the folder holds no ViT of the forms that the network knows, or more than one.
    """
    raw = read_json(folder / "config.json")
    weights: dict[str, Tensor] = {}
    for name, tensor in open_weights(folder).items():
        plain = in_layout_a(name)
        if plain in weights:
            raise InputError(
                f"{folder} has {plain} twice, in both of Transformers' layouts. Change {SETTING}."
            )
        if not _UNUSED.fullmatch(plain):
            weights[plain] = tensor.as_weight(f"{folder}: {name}")
    classes = weights["classifier.bias"].shape[0] if "classifier.bias" in weights else 0
    config = config_of(raw, str(folder), classes)
    tensors, names = {}, weight_names(config)
    for ours, theirs in names.items():
        if theirs in weights:
            tensors[ours] = _ours(ours, weights[theirs])
        elif not raw.get("qkv_bias", True) and re.search(r"(query|key|value)/bias$", ours):
            tensors[ours] = in_memory(np.zeros(config.emb_dim, np.float32))
    if unknown := sorted(set(weights) - set(names.values())):
        raise InputError(
            f"{folder} holds {len(unknown)} tensor(s) that its config.json does not account for, "
            f"the first {unknown[0]} {weights[unknown[0]].shape}. Change {SETTING}, or copy the "
            "folder again."
        )
    return config, tensors, raw


def config_of(raw: Mapping[str, Any], where: str, num_classes: int) -> ViTConfig:
    """The sizes that a `config.json` says, its missing ones Transformers' defaults.

    Raises:
      InputError: for a ViT of a form that the network does not know.
    """

    def one(name: str, default: int) -> int:
        value = raw.get(name, default)
        if isinstance(value, list | tuple) and len(set(value)) == 1:
            value = value[0]
        if not isinstance(value, int):
            raise InputError(f"{where}: {name} is {value!r}; images and patches must be square.")
        return value

    act = raw.get("hidden_act", "gelu")
    if act not in _GELUS:
        raise InputError(
            f"{where}: hidden_act is {act!r}; a ViT's may be {', '.join(_GELUS)}. Change {SETTING}."
        )
    try:
        return ViTConfig(
            image_size=one("image_size", 224),
            patch_size=one("patch_size", 16),
            channels=one("num_channels", 3),
            emb_dim=one("hidden_size", 768),
            num_layers=one("num_hidden_layers", 12),
            num_heads=one("num_attention_heads", 12),
            mlp_dim=one("intermediate_size", 3072),
            gelu=_GELUS[act],
            epsilon=raw.get("layer_norm_eps", 1e-12),
            num_classes=num_classes,
        )
    except ValueError as e:
        raise InputError(f"{where}: {e} Change {SETTING}.") from e


def _ours(name: str, tensor: Tensor) -> Tensor:
    """A tensor with the axes of our parameter `name`; of an odd rank it is left as it is."""
    rank = len(tensor.shape)
    if name == "patch_embedding/kernel" and rank == 4:
        out, channels, height, width = tensor.shape
        own = (height, width, channels, out)
        return mapped(tensor, own, lambda array: array.transpose(2, 3, 1, 0))
    if name in ("cls_token", "position_embedding") and rank == 3 and tensor.shape[0] == 1:
        shape = tensor.shape[2:] if name == "cls_token" else tensor.shape[1:]
        return reshaped(tensor, *shape)
    return tensor.transposed() if name.endswith("/kernel") else tensor


def _theirs(name: str, tensor: Tensor) -> Tensor:
    """The other way round."""
    if name == "patch_embedding/kernel":
        height, width, channels, out = tensor.shape
        theirs = (out, channels, height, width)
        return mapped(tensor, theirs, lambda array: array.transpose(3, 2, 0, 1))
    if name == "cls_token":
        return reshaped(tensor, 1, 1, *tensor.shape)
    if name == "position_embedding":
        return reshaped(tensor, 1, *tensor.shape)
    return tensor.transposed() if name.endswith("/kernel") else tensor


def write_folder(
    path: Path,
    config: ViTConfig,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, Path] | None = None,
    origin: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] = lambda nbytes: None,
) -> None:
    """Writes a folder that Transformers loads, in layout A, whole or not at all.

    It is a `ViTForImageClassification` where there is a head, and otherwise a `ViTModel`, whose
    pooler Transformers then draws anew unless it is told `add_pooling_layer=False`.

    Args:
      path: the folder to make; it must not exist, or be empty.
      config: the network.
      tensors: its parameters under our names and axes.
      files: other files to put beside them, by the names they get.
      origin: the `config.json` that the model once came with.
      progress: called with the number of bytes after each piece that was written.

    Raises:
      InputError: the parameters do not fit `config`, or `path` cannot be written.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_parameters(str(path), shapes, config, "the ViTConfig", "Use their own config.")
    names, prefix = weight_names(config), "vit." if config.num_classes else ""
    weights = {
        f"{'' if ours in HEAD else prefix}{names[ours]}": _theirs(ours, tensor)
        for ours, tensor in tensors.items()
    }
    kind = "ViTForImageClassification" if config.num_classes else "ViTModel"
    raw = dict(origin or {}) | {
        "architectures": [kind],
        "model_type": "vit",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "hidden_size": config.emb_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "gelu" if config.gelu == "exact" else "gelu_pytorch_tanh",
        "layer_norm_eps": config.epsilon,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    labels = raw.get("id2label", {})
    if config.num_classes and len(labels) != config.num_classes:
        raw["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_classes)}
        raw["label2id"] = {label: int(i) for i, label in raw["id2label"].items()}
    with new_folder(path, sum(tensor.nbytes for tensor in weights.values())) as folder:
        write_safetensors(folder / "model.safetensors", weights, progress)
        for name, file in (files or {}).items():
            shutil.copyfile(file, folder / name)
        (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
