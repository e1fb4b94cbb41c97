"""Our own backbone folder: `backbone.json` and `model.safetensors`, read in place.

The parameters have T5X's names and shapes. Those whose size is a multiple of 64 bytes, which all of
a published T5 are, start at such a multiple, so that JAX on a CPU uses the mapped file itself.
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from dpt_jax.interop.model_folder import CONFIG, WEIGHTS, Kind, open_model, write_model
from dpt_jax.interop.parameters import check_parameters
from dpt_jax.models import T5Config
from dpt_jax.tensors import Tensor, in_memory

__all__ = ["CONFIG", "WEIGHTS", "open_folder", "save_backbone", "stored_sizes", "write_backbone"]

# What is stored is a property of the model. The rest of a T5Config, such as dropout, is its user's
# choice.
_KIND = Kind(
    "dpt-jax backbone",
    "backbone",
    functools.partial(T5Config, dropout_rate=0.0),
    (
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
    ),
)


def open_folder(folder: Path) -> tuple[T5Config, dict[str, Tensor], dict[str, Any]]:
    """Opens a folder: the network's sizes, its tensors, and the `config.json` it came with, if any.

    Raises:
      InputError: the folder is damaged, or of a later version.
    """
    return open_model(folder, _KIND)


def stored_sizes(config: T5Config) -> dict[str, Any]:
    """What of `config` belongs to the model, and so into its folder."""
    return _KIND.sizes(config)


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
    write_model(path, _KIND, config, tensors, files, origin, progress)
