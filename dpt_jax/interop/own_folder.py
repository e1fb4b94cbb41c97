"""Our own backbone folder: `backbone.json` and `model.safetensors`, read in place.

The parameters have T5X's names and shapes. Those whose size is a multiple of 64 bytes, which all of
a published T5 are, start at such a multiple, so that JAX on a CPU uses the mapped file itself.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.new_folder import new_folder
from dpt_jax.interop.parameters import check_parameters
from dpt_jax.interop.safetensors_file import open_safetensors, write_safetensors
from dpt_jax.models import T5Config
from dpt_jax.tensors import Tensor, in_memory

CONFIG = "backbone.json"
WEIGHTS = "model.safetensors"
_FORMAT = "dpt-jax backbone"
_VERSION = 1
# What is a property of the model. The rest of a T5Config, such as dropout, is its user's choice.
_STORED = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "head_dim",
    "mlp_dim",
    "mlp_activations",
    "logits_via_embedding",
    "relpos_bias_per_layer",
)


def open_folder(folder: Path) -> tuple[T5Config, dict[str, Tensor], dict[str, Any]]:
    """Opens a folder: the network's sizes, its tensors, and the `config.json` it came with, if any.

    Raises:
      InputError: the folder is damaged, or of a later version.
    """
    path = folder / CONFIG
    try:
        header = json.loads(path.read_text())
        name, version = header["format"], header["version"]
        if (name, version) != (_FORMAT, _VERSION):
            raise InputError(
                f"{path} says format {name!r}, version {version!r}; this program reads "
                f"{_FORMAT!r}, version {_VERSION}."
            )
        config = T5Config(**{"dropout_rate": 0.0, **header["config"]})
        origin = dict(header.get("hugging_face", {}))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a backbone: {error!r}.") from error
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


def stored_sizes(config: T5Config) -> dict[str, Any]:
    """What of `config` belongs to the model, and so into its folder."""
    return {name: getattr(config, name) for name in _STORED}


def save_backbone(
    path: str | os.PathLike,
    config: T5Config,
    params: Mapping[str, Any],
    files: Iterable[str | os.PathLike] = (),
) -> None:
    """Writes our folder, whole or not at all.

    Args:
      path: the folder to make; it must not exist, or be empty.
      config: the network; its sizes are stored, its dtype and dropout are not.
      params: its parameters, nested dicts of float32 or bfloat16 arrays.
      files: other files to put beside them, such as the vocabulary.

    Raises:
      InputError: `path` holds something already, or the parameters do not fit `config`.
    """
    tensors = {name: in_memory(array) for name, array in flatten_dict(params, sep="/").items()}
    write_backbone(path, config, tensors, {Path(file).name: file for file in files})


def write_backbone(
    path: str | os.PathLike,
    config: T5Config,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, str | os.PathLike] | None = None,
    origin: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] = lambda nbytes: None,
) -> None:
    """`save_backbone` for tensors that are read one after the other while they are written.

    Args:
      path: the folder to make.
      config: the network.
      tensors: its parameters by their names joined with "/".
      files: other files to put beside them, by the names they get.
      origin: the `config.json` that a Hugging Face model came with, kept for the way back.
      progress: called with the number of bytes after each piece that was written.

    Raises:
      InputError: as `save_backbone`, or the disk is full.
    """
    check_parameters(
        str(path),
        {name: tensor.shape for name, tensor in tensors.items()},
        config,
        "the T5Config",
        "Save parameters with their own config.",
    )
    tensors = {name: tensor.as_weight(f"Parameter {name}") for name, tensor in tensors.items()}
    header: dict[str, Any] = {
        "format": _FORMAT,
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
