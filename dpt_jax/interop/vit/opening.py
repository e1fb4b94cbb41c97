"""Opening a pretrained ViT wherever it comes from."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.vit import hugging_face, npz, own_folder, positions
from dpt_jax.interop.vit.npz import without_head
from dpt_jax.interop.vit.parameters import check_parameters, mapped
from dpt_jax.models.vit import ViTConfig
from dpt_jax.tensors import Tensor


@dataclasses.dataclass(frozen=True)
class VitBackbone:
    """A pretrained ViT that is open but not read.

    Attributes:
      path: where it is.
      format: "dpt", "hf" or "npz".
      config: its sizes; dtype and rematerialization are the caller's.
      tensors: every parameter under its name joined with "/".
      origin: the `config.json` of Hugging Face that the model came with, if it did.
    """

    path: str
    format: str
    config: ViTConfig
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def numerics(self) -> dict[str, Any]:
        """What of the configuration travels with the weights: GELU and epsilon."""
        return {"gelu": self.config.gelu, "epsilon": self.config.epsilon}


def is_vit(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder or file of a ViT, by looking inside; not whether it is whole."""
    if "://" in os.fspath(path):
        return False
    found = Path(path).expanduser()
    if npz.is_npz(found) or own_folder.is_own(found):
        return True
    config = found / "config.json"
    return config.is_file() and hugging_face.read_json(config).get("model_type") == "vit"


def open_vit(path: str | os.PathLike, config: ViTConfig | None = None) -> VitBackbone:
    """Finds out what `path` holds and checks every name and shape, reading no parameter.

    Args:
      path: a folder of Hugging Face's (either layout of names), one of ours, or a `.npz` of
        google-research's (vision_transformer before and since Linen, big_vision, Scenic).
      config: the network that the parameters are meant for. The stored head is left out then, as
        another data set has other classes, and positions are interpolated where its image size is
        another one. GELU and epsilon are the file's own. Without it everything is the file's own.

    Raises:
      InputError: `path` holds no ViT, a part of one, or one of another form than `config`.
    """
    found = Path(path).expanduser()
    if not found.exists():
        raise InputError(f"There is no {path}. Set {SETTING} to a pretrained ViT.")
    if not is_vit(found):
        raise InputError(
            f"{path} holds no pretrained ViT. Looked for a .npz of google-research's, a folder "
            "with a config.json of model_type 'vit' (Hugging Face) and one with a backbone.json "
            f"(ours). Change {SETTING}."
        )
    origin: dict[str, Any] = {}
    if found.is_file():
        kind, (own, tensors), stated_by = "npz", npz.open_npz(found), "its shapes"
    elif own_folder.is_own(found):
        kind, stated_by = "dpt", own_folder.CONFIG
        own, tensors, origin = own_folder.open_folder(found)
    else:
        kind, stated_by = "hf", "config.json"
        own, tensors, origin = hugging_face.open_folder(found)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    damaged = f"It is damaged or half copied; copy it again, or change {SETTING}."
    if config is None:
        check_parameters(str(path), shapes, own, stated_by, damaged)
        return VitBackbone(str(path), kind, own, tensors, origin)
    bare = dataclasses.replace(config, num_classes=0)
    tensors = without_head(tensors)
    if own.image_size != config.image_size:
        how = positions.CUBIC if origin else positions.LINEAR
        tensors["position_embedding"] = _resized(tensors["position_embedding"], config, how)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    remedy = f"Change {SETTING}, or take the model gin file of this ViT: its own sizes are " + (
        ", ".join(f"{k} {v}" for k, v in own_folder.stored_sizes(own).items()) + "."
    )
    check_parameters(str(path), shapes, bare, "the model file", remedy)
    if own.num_heads != config.num_heads:
        raise InputError(
            f"{path}: num_heads is {own.num_heads}, but the model file says {config.num_heads}. "
            f"{remedy}"
        )
    bare = dataclasses.replace(bare, gelu=own.gelu, epsilon=own.epsilon)
    return VitBackbone(str(path), kind, bare, tensors, origin)


def _resized(tensor: Tensor, config: ViTConfig, how: str) -> Tensor:
    if len(tensor.shape) != 2:
        return tensor
    shape = (1 + config.num_patches, tensor.shape[1])
    grid = config.grid
    return mapped(tensor, shape, lambda p: positions.resize_positions(p, grid, how))
