"""Our own folder of a ViT: `backbone.json` and `model.safetensors`, read in place."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.new_folder import new_folder
from dpt_jax.interop.own_folder import CONFIG, WEIGHTS
from dpt_jax.interop.safetensors_file import open_safetensors, write_safetensors
from dpt_jax.interop.vit.parameters import check_parameters
from dpt_jax.models.vit import ViTConfig
from dpt_jax.tensors import Tensor

FORMAT = "dpt-jax vision transformer"
_VERSION = 1
# What is a property of the model; dtype and rematerialization are its user's choice.
_STORED = (
    *("image_size", "patch_size", "channels", "emb_dim", "num_layers", "num_heads", "mlp_dim"),
    *("gelu", "epsilon", "num_classes"),
)


def stored_sizes(config: ViTConfig) -> dict[str, Any]:
    """What of `config` belongs to the model, and so into its folder."""
    return {name: getattr(config, name) for name in _STORED}


def is_own(folder: Path) -> bool:
    """Whether a folder is one of these, by its first words."""
    try:
        return json.loads((folder / CONFIG).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def open_folder(folder: Path) -> tuple[ViTConfig, dict[str, Tensor], dict[str, Any]]:
    """Opens a folder: the network's sizes, its tensors, and the `config.json` it came with, if any.

    Raises:
      InputError: the folder is damaged, or of a later version.
    """
    path = folder / CONFIG
    try:
        header = json.loads(path.read_text())
        if header["version"] != _VERSION:
            raise InputError(
                f"{path} has version {header['version']!r}; this program reads {_VERSION}."
            )
        config = ViTConfig(**header["config"])
        origin = dict(header.get("hugging_face", {}))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a ViT: {error!r}.") from error
    weights = folder / WEIGHTS
    if not weights.exists():
        raise InputError(
            f"{folder} has a {CONFIG} but no {WEIGHTS}. Copy it again, or change {SETTING}."
        )
    tensors = {
        name: tensor.as_weight(f"{weights}: {name}")
        for name, tensor in open_safetensors(weights).items()
    }
    return config, tensors, origin


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
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": _VERSION,
        "config": stored_sizes(config),
    }
    if origin:
        header["hugging_face"] = dict(origin)
    with new_folder(path, sum(tensor.nbytes for tensor in tensors.values())) as folder:
        write_safetensors(folder / WEIGHTS, tensors, progress)
        for name, file in (files or {}).items():
            shutil.copyfile(file, folder / name)
        (folder / CONFIG).write_text(json.dumps(header, indent=2) + "\n")
