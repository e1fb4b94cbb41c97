"""Loading a pretrained T5 from whatever folder it comes in, and saving it in ours.

What a folder holds is told by looking inside:

- ours: `backbone.json` and `model.safetensors`, which is mapped into memory and read in place;
- Hugging Face: `config.json` and `model.safetensors`, shards with an index, or `pytorch_model.bin`;
- T5X's released format: a msgpack file `checkpoint` beside one zarr folder a parameter, from disk
  or `gs://`.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.files import TEMPORARY_MARK, atomic_folder
from dpt_jax.interop import hugging_face, t5x_checkpoint
from dpt_jax.interop.safetensors_file import open_safetensors, write_safetensors
from dpt_jax.interop.tensors import Tensor, check_parameters, flatten, in_memory, unflatten
from dpt_jax.models import T5Config

CONFIG = "backbone.json"
WEIGHTS = "model.safetensors"
_FORMAT = "dpt-jax backbone"
_VERSION = 1
# These are choices of the one who uses a backbone, not properties of it.
_NOT_STORED = ("dtype", "dropout_rate", "float32_attention_logits")
# How writers name folders that they have not finished: ours, Orbax's, T5X's.
_UNFINISHED = (TEMPORARY_MARK, ".orbax-checkpoint-tmp", ".tmp")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained T5 that is open but not read.

    Attributes:
      path: where it is.
      format: "dpt", "hf" or "t5x".
      config: its sizes; dtype, dropout and float32_attention_logits are the caller's.
      tensors: every parameter under its name joined with "/", in T5X's shapes.
    """

    path: str
    format: str
    config: T5Config
    tensors: Mapping[str, Tensor]


def load_backbone(
    path: str | os.PathLike, config: T5Config | None = None
) -> tuple[T5Config, dict[str, Any]]:
    """Loads a pretrained T5.

    Args:
      path: one of the folders that this module's docstring lists, or the URL of a T5X checkpoint.
      config: the network that the parameters are meant for. Every shape is checked against it, and
        it is what is returned. Without it the sizes are the folder's own, the activations float32
        and the dropout 0.

    Returns:
      The configuration, and the parameters as nested dicts of NumPy arrays, float32 or bfloat16 as
      they are stored. Arrays may be read-only views of mapped files.

    Raises:
      InputError: `path` holds no such model, a part of one, or one of other sizes than `config`.
    """
    backbone = open_backbone(path, config)
    params = {name: tensor.read() for name, tensor in backbone.tensors.items()}
    return backbone.config, unflatten(params)


def open_backbone(path: str | os.PathLike, config: T5Config | None = None) -> Backbone:
    """Finds out what `path` holds and checks every name and shape, reading no parameter.

    Arguments and errors are those of `load_backbone`.
    """
    path = os.fspath(path)
    kind, own, tensors, stated_by = _open(path)
    sure_activations = stated_by != "the shapes of the others"
    if config is None:
        check_parameters(
            path,
            _shapes(tensors),
            own,
            stated_by,
            "The folder is damaged or half copied; copy it again, or change "
            "INITIAL_CHECKPOINT_PATH.",
        )
        return Backbone(path, kind, own, tensors)
    remedy = (
        "Change INITIAL_CHECKPOINT_PATH, or take the model gin file of this checkpoint's size: "
        f"its own sizes are {_describe(own)}."
    )
    check_parameters(path, _shapes(tensors), config, "the model file", remedy)
    if sure_activations and config.mlp_activations != own.mlp_activations:
        raise InputError(
            f"{path}: mlp_activations are {own.mlp_activations}, but the model file says "
            f"{config.mlp_activations}. {remedy}"
        )
    return Backbone(path, kind, config, tensors)


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
    tensors = {name: in_memory(array) for name, array in flatten(params).items()}
    write_backbone(path, config, tensors, files)


def write_backbone(
    path: str | os.PathLike,
    config: T5Config,
    tensors: Mapping[str, Tensor],
    files: Iterable[str | os.PathLike] = (),
) -> None:
    """`save_backbone` for tensors that are read one after the other while they are written."""
    path = Path(path)
    check_parameters(
        str(path),
        _shapes(tensors),
        config,
        "the T5Config",
        "Save parameters with their own config.",
    )
    tensors = {name: tensor.as_weight(f"Parameter {name}") for name, tensor in tensors.items()}
    stored = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _NOT_STORED
    }
    try:
        with atomic_folder(path) as folder:
            write_safetensors(folder / WEIGHTS, tensors)
            for file in files:
                shutil.copyfile(file, folder / Path(file).name)
            header = {"format": _FORMAT, "version": _VERSION, "config": stored}
            (folder / CONFIG).write_text(json.dumps(header, indent=2) + "\n")
    except FileExistsError as error:
        raise InputError(f"{error} Give a new folder, or remove this one first.") from error


def _open(location: str) -> tuple[str, T5Config, dict[str, Tensor], str]:
    """Returns the format, the config, the tensors, and what states the config."""
    if "://" in location:
        return _open_t5x(location, None)
    folder = Path(location).expanduser()
    if not folder.exists():
        raise InputError(
            f"There is no folder {location}. Set INITIAL_CHECKPOINT_PATH to the folder of a "
            "pretrained T5."
        )
    if not folder.is_dir():
        raise InputError(
            f"{location} is a file; INITIAL_CHECKPOINT_PATH takes the folder it lies in, "
            f"{folder.parent}."
        )
    if any(mark in folder.name for mark in _UNFINISHED):
        raise InputError(
            f"{location} was left by a writer that did not finish. Set INITIAL_CHECKPOINT_PATH to "
            "a finished folder."
        )
    if (folder / CONFIG).exists():
        return "dpt", *_open_ours(folder), CONFIG
    if (folder / t5x_checkpoint.INDEX).is_file():
        return _open_t5x(folder.resolve().as_uri(), folder)
    if (folder / "config.json").exists():
        return "hf", *hugging_face.open_folder(folder), "config.json"
    raise _not_a_backbone(folder)


def _open_ours(folder: Path) -> tuple[T5Config, dict[str, Tensor]]:
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
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a backbone: {error!r}.") from error
    weights = folder / WEIGHTS
    if not weights.exists():
        raise InputError(
            f"{folder} has a {CONFIG} but no {WEIGHTS}. Copy it again, or change "
            "INITIAL_CHECKPOINT_PATH."
        )
    tensors = {
        name: tensor.as_weight(f"{weights}: {name}")
        for name, tensor in open_safetensors(weights).items()
    }
    return config, tensors


def _open_t5x(url: str, folder: Path | None) -> tuple[str, T5Config, dict[str, Tensor], str]:
    tensors = t5x_checkpoint.open_checkpoint(url)
    config = t5x_checkpoint.infer_config(_shapes(tensors), str(folder or url))
    # T5X writes no configuration of the network, but whoever kept one beside it knows the gate.
    for parent in (folder, folder.resolve().parent) if folder else ():
        path = parent / "config.json"
        if path.exists() and "mlp_activations" in (raw := hugging_face.read_json(path)):
            config = dataclasses.replace(config, mlp_activations=raw["mlp_activations"])
            return "t5x", config, tensors, "config.json"
    return "t5x", config, tensors, "the shapes of the others"


def _not_a_backbone(folder: Path) -> InputError:
    names = sorted(entry.name for entry in folder.iterdir())
    change = "Change INITIAL_CHECKPOINT_PATH."
    if any(name in hugging_face.WEIGHT_FILES for name in names):
        return InputError(
            f"{folder} has weights but neither {CONFIG} (our format) nor config.json (Hugging "
            f"Face), so that it is half written or half copied. {change}"
        )
    if any(name.startswith("target.") for name in names):
        return InputError(
            f"{folder} has T5X's parameter folders but no file '{t5x_checkpoint.INDEX}', which "
            f"T5X writes last: it is half written or half copied. {change}"
        )
    if any(name in ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt") for name in names):
        return InputError(
            f"{folder} is an Orbax checkpoint, which is not read here; a T5X checkpoint in the "
            f"released (zarr) format is. {change}"
        )
    inside = [
        name
        for name in names
        if (folder / name / t5x_checkpoint.INDEX).is_file() or (folder / name / CONFIG).is_file()
    ]
    if inside:
        return InputError(f"{folder} holds {', '.join(inside)}: name one of them. {change}")
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
    return InputError(
        f"{folder} holds no pretrained T5. Looked for {CONFIG} with {WEIGHTS} (ours), config.json "
        "with model.safetensors or pytorch_model.bin (Hugging Face) and a file "
        f"'{t5x_checkpoint.INDEX}' beside zarr folders (T5X); found {shown}. {change}"
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _describe(config: T5Config) -> str:
    names = "emb_dim num_encoder_layers num_decoder_layers num_heads head_dim mlp_dim vocab_size"
    return ", ".join(f"{name} {getattr(config, name)}" for name in names.split())
