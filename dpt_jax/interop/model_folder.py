"""What our own folders of any model have in common: a header and the weights, read in place."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.new_folder import new_folder
from dpt_jax.interop.safetensors_file import open_safetensors, write_safetensors
from dpt_jax.tensors import Tensor

CONFIG = "backbone.json"
WEIGHTS = "model.safetensors"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of model that has such folders.

    Attributes:
      format: what its header says.
      noun: what it is called in a message.
      make_config: its configuration from what is stored.
      stored: the fields of the configuration that belong to the model, and not to its user.
    """

    format: str
    noun: str
    make_config: Callable[..., Any]
    stored: tuple[str, ...]

    def sizes(self, config: Any) -> dict[str, Any]:
        """What of a configuration is stored."""
        return {name: getattr(config, name) for name in self.stored}


def open_model(folder: Path, kind: Kind) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """Opens a folder: the configuration, the tensors, and the `config.json` it came with, if any.

    Raises:
      InputError: the folder is damaged, of another kind or of a later version.
    """
    path = folder / CONFIG
    try:
        header = json.loads(path.read_text())
        name, version = header["format"], header["version"]
        if (name, version) != (kind.format, _VERSION):
            raise InputError(
                f"{path} says format {name!r}, version {version!r}; this program reads "
                f"{kind.format!r}, version {_VERSION}."
            )
        config = kind.make_config(**header["config"])
        origin = dict(header.get("hugging_face", {}))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a {kind.noun}: {error!r}.") from error
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


def write_model(
    path: str | os.PathLike,
    kind: Kind,
    config: Any,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, str | os.PathLike] | None,
    origin: Mapping[str, Any] | None,
    progress: Callable[[int], object],
) -> None:
    """Writes a folder, whole or not at all; see `own_folder.write_backbone`."""
    header: dict[str, Any] = {
        "format": kind.format,
        "version": _VERSION,
        "config": kind.sizes(config),
    }
    if origin:
        header["hugging_face"] = dict(origin)
    with new_folder(path, sum(tensor.nbytes for tensor in tensors.values())) as folder:
        write_safetensors(folder / WEIGHTS, tensors, progress)
        for name, file in (files or {}).items():
            shutil.copyfile(file, folder / name)
        (folder / CONFIG).write_text(json.dumps(header, indent=2) + "\n")
