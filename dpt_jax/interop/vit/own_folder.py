"""Our own folder of a ViT: `backbone.json` and `model.safetensors`, read in place."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.interop.model_folder import CONFIG, Kind, open_model, write_model
from dpt_jax.interop.vit.parameters import check_parameters
from dpt_jax.models.vit import ViTConfig
from dpt_jax.tensors import Tensor

# What is stored is a property of the model; dtype and rematerialization are its user's choice.
_KIND = Kind(
    "dpt-jax vision transformer",
    "ViT",
    ViTConfig,
    (
        *("image_size", "patch_size", "channels", "emb_dim", "num_layers", "num_heads", "mlp_dim"),
        *("gelu", "epsilon", "num_classes"),
    ),
)


def stored_sizes(config: ViTConfig) -> dict[str, Any]:
    """What of `config` belongs to the model, and so into its folder."""
    return _KIND.sizes(config)


def is_own(folder: Path) -> bool:
    """Whether a folder is one of these, by its first words."""
    try:
        return json.loads((folder / CONFIG).read_text()).get("format") == _KIND.format
    except (OSError, ValueError, AttributeError):
        return False


def open_folder(folder: Path) -> tuple[ViTConfig, dict[str, Tensor], dict[str, Any]]:
    """Opens a folder: the network's sizes, its tensors, and the `config.json` it came with, if any.

    Raises:
      InputError: the folder is damaged, or of a later version.
    """
    return open_model(folder, _KIND)


def write_vit(
    path: str | os.PathLike,
    config: ViTConfig,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, str | os.PathLike] | None = None,
    origin: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] = lambda nbytes: None,
) -> None:
    """Writes our folder, whole or not at all.

    Args:
      path: the folder to make; it must not exist, or be empty.
      config: the network.
      tensors: its parameters by their names joined with "/".
      files: other files to put beside them, by the names they get.
      origin: the `config.json` that a Hugging Face model came with, kept for the way back.
      progress: called with the number of bytes after each piece that was written.

    Raises:
      InputError: `path` holds something already, or the parameters do not fit `config`.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_parameters(str(path), shapes, config, "the ViTConfig", "Use their own config.")
    write_model(path, _KIND, config, tensors, files, origin, progress)
