"""google-research's `.npz` files of ViTs, in the four layouts that they come in.

All four become one tree. big_vision adds the patches' positions before CLS is put in front, and
adds the position of CLS, where an older file has one, to CLS itself. That is done here for all of
them: the position of CLS is zero, and what the network computes stays the same.
"""

import math
import operator
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.vit.parameters import HEAD, mapped, reshaped
from dpt_jax.models.vit import ViTConfig
from dpt_jax.tensors import BFLOAT16, Tensor

# What a whole training state, or a two-tower model, puts in front of the image tower's names.
_PREFIXES = ("opt/target/", "params/img/", "params/", "")
_BLOCK = "Transformer/encoderblock_"
# The numbers that module names end with, in the four layouts: those that come before Linen count
# through all kinds of modules, Linen counts each kind.
_PARTS = (
    (r"LayerNorm_0", "pre_attention_layer_norm"),
    (r"MultiHeadDotProductAttention_[01]", "attention"),
    (r"LayerNorm_[12]", "pre_mlp_layer_norm"),
    (r"MlpBlock_[03]/Dense_0", "mlp/wi"),
    (r"MlpBlock_[03]/Dense_1", "mlp/wo"),
)
_ATTENTION = re.compile(r"attention/(query|key|value|out)/(kernel|bias)")


def is_npz(path: Path) -> bool:
    """Whether a file is the `.npz` of a ViT, by the names in it."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any("Transformer/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def open_npz(path: Path) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Opens a file: its sizes, read from the shapes, and its tensors under our names and axes.

    GELU and epsilon are those of Google's own code, tanh and 1e-6: no file says them.

    Raises:
      InputError: the file is damaged, or holds no ViT with a CLS token.
    """
    stored = _without_prefix(_open(path))
    if any(name.startswith("MAPHead_0/") for name in stored) and "cls" not in stored:
        raise InputError(
            f"{path} pools by an attention head (big_vision's 'map') and has no CLS token, which "
            f"the linear head here reads. Give a ViT with CLS, or change {SETTING}."
        )
    stored = _split_layers(stored)
    for theirs in ("embedding/kernel", "cls"):
        if theirs not in stored:
            raise InputError(f"{path}: parameter {theirs} is missing. Change {SETTING}.")
    # A head that was trained behind another layer reads that layer, not CLS.
    behind = any(name.startswith("pre_logits/") for name in stored)
    tensors: dict[str, Tensor] = {}
    for theirs, tensor in stored.items():
        ours = _our_name(theirs)
        if behind and ours in HEAD:
            continue
        if ours is None:
            raise InputError(
                f"{path}: parameter {theirs}, shape {tensor.shape}, is none that a ViT has. "
                f"Change {SETTING}."
            )
        if ours:
            tensors[ours] = tensor.as_weight(f"{path}: {theirs}")
    config = _config(path, tensors)
    _settle_positions(path, tensors)
    for name, tensor in tensors.items():
        if _ATTENTION.search(name):
            width = config.emb_dim
            shape = (width, width) if name.endswith("kernel") else (width,)
            tensors[name] = reshaped(tensor, *shape)
    return config, tensors


def _open(path: Path) -> dict[str, Tensor]:
    """Every array of an archive, none of which is read."""
    tensors = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                tensors[member.removesuffix(".npy")] = _tensor(path, member, shape, dtype)
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise InputError(
            f"{path} cannot be read: {e}. It may be half copied; copy it again, or change "
            f"{SETTING}."
        ) from e
    return tensors


def _tensor(path: Path, member: str, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    # NumPy knows no bfloat16: its two bytes come without a type.
    half = dtype.kind == "V" and dtype.itemsize == 2

    def read() -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            array = np.lib.format.read_array(file)
        return array.view(BFLOAT16) if half else array

    return Tensor(shape, BFLOAT16 if half else dtype, read)


def _without_prefix(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = next(p for p in _PREFIXES if not p or f"{p}embedding/kernel" in stored)
    return {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}


def _split_layers(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A scanned model's layers, which lie in one array each, under names of their own."""
    split: dict[str, Tensor] = {}
    scanned = f"{_BLOCK.removesuffix('_')}/"
    for name, tensor in stored.items():
        if not name.startswith(scanned):
            split[name] = tensor
            continue
        for i in range(tensor.shape[0]):
            layer = mapped(tensor, tensor.shape[1:], operator.itemgetter(i))
            split[f"{_BLOCK}{i}/{name.removeprefix(scanned)}"] = layer
    return split


def _our_name(theirs: str) -> str | None:
    """Our name of a parameter; "" for one that is left out, None for one that is unknown."""
    plain: dict[str, str] = {
        "embedding/kernel": "patch_embedding/kernel",
        "embedding/bias": "patch_embedding/bias",
        "cls": "cls_token",
        "pos_embedding": "position_embedding",
        "Transformer/posembed_input/pos_embedding": "position_embedding",
        "Transformer/encoder_norm/scale": "encoder/encoder_norm/scale",
        "Transformer/encoder_norm/bias": "encoder/encoder_norm/bias",
    }
    if theirs in plain:
        return plain[theirs]
    if theirs.startswith(("head/", "output_projection/")):
        return f"head/{theirs.split('/')[1]}"
    if theirs.startswith("pre_logits/"):
        return ""
    if found := re.fullmatch(rf"{_BLOCK}(\d+)/(.*)/(\w+)", theirs):
        number, part, leaf = found.groups()
        for pattern, ours in _PARTS:
            if match := re.fullmatch(rf"{pattern}(/\w+)?", part):
                return f"encoder/layers_{number}/{ours}{match[1] or ''}/{leaf}"
    return None


def _config(path: Path, tensors: dict[str, Tensor]) -> ViTConfig:
    """The sizes that the shapes tell."""
    numbers = {int(n) for name in tensors for n in re.findall(r"layers_(\d+)/", name)}
    query = tensors.get("encoder/layers_0/attention/query/kernel")
    mlp = tensors.get("encoder/layers_0/mlp/wi/kernel")
    positions = tensors.get("position_embedding")
    for name, found in (("query", query), ("Dense_0", mlp), ("pos_embedding", positions)):
        if found is None:
            raise InputError(f"{path}: the {name} of a ViT is missing. Change {SETTING}.")
    assert query is not None and mlp is not None and positions is not None
    height, _, channels, width = tensors["patch_embedding/kernel"].shape
    grid = math.isqrt(positions.shape[-2])
    sizes: dict[str, Any] = {
        "image_size": grid * height,
        "patch_size": height,
        "channels": channels,
        "emb_dim": width,
        "num_layers": max(numbers) + 1,
        "num_heads": query.shape[1],
        "mlp_dim": mlp.shape[1],
        "num_classes": tensors["head/bias"].shape[0] if "head/bias" in tensors else 0,
    }
    try:
        return ViTConfig(**sizes, gelu="tanh", epsilon=1e-6)
    except ValueError as e:
        raise InputError(f"{path}: {e} Change {SETTING}.") from e


def _settle_positions(path: Path, tensors: dict[str, Tensor]) -> None:
    """Puts CLS's position into CLS, in place; see the module's docstring."""
    cls, positions = tensors["cls_token"], tensors["position_embedding"]
    count, width = positions.shape[-2:]
    grid = math.isqrt(count)
    has_cls = count == grid**2 + 1
    if count not in (grid**2, grid**2 + 1):
        raise InputError(f"{path}: {count} positions make no square of patches. Change {SETTING}.")

    def settled(array: np.ndarray) -> np.ndarray:
        array = array.reshape(count, width)
        patches = array[1:] if has_cls else array
        return np.concatenate([np.zeros_like(array[:1]), patches])

    def with_position(array: np.ndarray) -> np.ndarray:
        array = array.reshape(width)
        return array + positions.read().reshape(count, width)[0] if has_cls else array

    tensors["cls_token"] = mapped(cls, (width,), with_position)
    patches = count - 1 if has_cls else count
    tensors["position_embedding"] = mapped(positions, (1 + patches, width), settled)


def without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters but for the head's."""
    return {name: tensor for name, tensor in tensors.items() if name not in HEAD}
