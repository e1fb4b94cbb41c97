"""Opening a pretrained T5 wherever it comes from.

What a folder holds is told by looking inside:

- ours: `backbone.json` and `model.safetensors`, which is mapped into memory and used in place;
- Hugging Face: `config.json` and `model.safetensors`, shards with an index, or `pytorch_model.bin`;
- T5X's released format: a msgpack file `checkpoint` beside one zarr folder per parameter;
- T5X with Orbax: the folder of a step, `checkpoint_<step>/state/`.

The last two are read from disk or from a URL that TensorStore knows, such as `gs://`.
"""

import dataclasses
import os
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import unflatten_dict

from dpt_jax.errors import SETTING, InputError
from dpt_jax.files import TEMPORARY_MARK
from dpt_jax.interop import hugging_face, orbax_checkpoint, own_folder, t5x_checkpoint
from dpt_jax.interop.own_folder import CONFIG, WEIGHTS
from dpt_jax.interop.parameters import check_parameters
from dpt_jax.interop.special_ids import check_special_ids
from dpt_jax.models import T5Config
from dpt_jax.tensors import Tensor

# How writers name folders that they have not finished: ours, Orbax's, T5X's.
_UNFINISHED = (TEMPORARY_MARK, ".orbax-checkpoint-tmp", ".tmp")
_MARKS = (CONFIG, "config.json", t5x_checkpoint.INDEX, orbax_checkpoint.FILES[2])
_BY_SHAPES = "the T5 that the other parameters make"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained T5 that is open but not read.

    Attributes:
      path: where it is.
      format: "dpt", "hf", "t5x" or "orbax".
      config: its sizes; dtype, dropout and float32_attention_logits are the caller's.
      tensors: every parameter under its name joined with "/", in T5X's shapes.
      origin: the `config.json` of Hugging Face that the model came with, if it did.
    """

    path: str
    format: str
    config: T5Config
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
      they are stored. Arrays may be read-only views of mapped files, and start at addresses where
      JAX on a CPU uses them without a copy.

    Raises:
      InputError: `path` holds no such model, a part of one, or one of other sizes than `config`.
    """
    backbone = open_backbone(path, config)
    params = {name: tensor.load() for name, tensor in backbone.tensors.items()}
    return backbone.config, unflatten_dict(params, sep="/")


def open_backbone(path: str | os.PathLike, config: T5Config | None = None) -> Backbone:
    """Finds out what `path` holds and checks every name and shape, reading no parameter.

    Arguments and errors are those of `load_backbone`.
    """
    path = os.fspath(path)
    kind, own, tensors, origin, stated_by = _open(path)
    if config is None:
        check_parameters(
            path,
            _shapes(tensors),
            own,
            stated_by,
            f"The folder is damaged or half copied; copy it again, or change {SETTING}.",
        )
        return Backbone(path, kind, own, tensors, origin)
    remedy = (
        f"Change {SETTING}, or take the model gin file of this checkpoint's size: "
        f"its own sizes are {_describe(own)}."
    )
    # Before the shapes, of which this decides the names.
    _check_form(path, "relpos_bias_per_layer", own, config, remedy)
    check_parameters(path, _shapes(tensors), config, "the model file", remedy)
    if stated_by != _BY_SHAPES:
        _check_form(path, "mlp_activations", own, config, remedy)
    return Backbone(path, kind, config, tensors, origin)


def _check_form(path: str, name: str, own: T5Config, config: T5Config, remedy: str) -> None:
    here, there = getattr(own, name), getattr(config, name)
    if here != there:
        raise InputError(f"{path}: {name} is {here}, but the model file says {there}. {remedy}")


_Opened = tuple[str, T5Config, dict[str, Tensor], dict[str, Any], str]


def _open(location: str) -> _Opened:
    """Returns the format, config, tensors, Hugging Face's config.json, and what states the config.

    A relative name is that of a folder; whatever has a scheme but `file` is left to TensorStore.
    """
    if location.startswith("file://"):
        location = urllib.request.url2pathname(urllib.parse.urlparse(location).path)
    if "://" in location:
        return _open_url(location)
    folder = Path(location).expanduser()
    if not folder.exists():
        raise InputError(
            f"There is no folder {location}. Set {SETTING} to the folder of a pretrained T5."
        )
    if not folder.is_dir():
        raise InputError(
            f"{location} is a file; {SETTING} takes the folder it lies in, {folder.parent}."
        )
    if any(mark in folder.name for mark in _UNFINISHED):
        raise InputError(
            f"{location} was left by a writer that did not finish. Set {SETTING} to "
            "a finished folder."
        )
    if (folder / CONFIG).exists():
        config, tensors, origin = own_folder.open_folder(folder)
        _check_special_ids(folder, CONFIG, origin)
        return "dpt", config, tensors, origin, CONFIG
    url = folder.resolve().as_uri()
    if (folder / t5x_checkpoint.INDEX).is_file():
        return _open_t5x("t5x", t5x_checkpoint.open_checkpoint(url), location, folder)
    if (folder / "config.json").exists():
        config, tensors, origin = hugging_face.open_folder(folder)
        _check_special_ids(folder, "config.json", origin)
        return "hf", config, tensors, origin, "config.json"
    item = orbax_checkpoint.find_item(url)
    if item is not None:
        return _open_t5x("orbax", orbax_checkpoint.open_checkpoint(item), location, folder)
    raise _not_a_backbone(folder)


def _check_special_ids(folder: Path, name: str, origin: Mapping[str, Any]) -> None:
    check_special_ids(origin, f"{folder / name}")
    generation = folder / "generation_config.json"
    if generation.is_file():
        check_special_ids(hugging_face.read_json(generation), f"{generation}")


def _open_url(url: str) -> _Opened:
    if t5x_checkpoint.has_index(url):
        return _open_t5x("t5x", t5x_checkpoint.open_checkpoint(url), url, None)
    item = orbax_checkpoint.find_item(url)
    if item is not None:
        return _open_t5x("orbax", orbax_checkpoint.open_checkpoint(item), url, None)
    raise InputError(
        f"{url} holds no T5X checkpoint: it has neither a file '{t5x_checkpoint.INDEX}' (the "
        f"released format) nor {orbax_checkpoint.FILES[0]} (Orbax). Copy models of other formats "
        f"to a disk, or change {SETTING}."
    )


def _open_t5x(kind: str, tensors: dict[str, Tensor], location: str, folder: Path | None) -> _Opened:
    config = t5x_checkpoint.infer_config(_shapes(tensors), location)
    # T5X writes no configuration of the network, but whoever kept one beside it knows the gate.
    for parent in (folder, folder.resolve().parent) if folder else ():
        path = parent / "config.json"
        if path.exists() and "mlp_activations" in (raw := hugging_face.read_json(path)):
            config = dataclasses.replace(config, mlp_activations=raw["mlp_activations"])
            return kind, config, tensors, {}, "config.json"
    return kind, config, tensors, {}, _BY_SHAPES


def _not_a_backbone(folder: Path) -> InputError:
    names = sorted(entry.name for entry in folder.iterdir())
    change = f"Change {SETTING}."
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
    inside = [name for name in names if any((folder / name / mark).is_file() for mark in _MARKS)]
    if inside:
        return InputError(f"{folder} holds {', '.join(inside)}: name one of them. {change}")
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
    return InputError(
        f"{folder} holds no pretrained T5. Looked for {CONFIG} with {WEIGHTS} (ours), config.json "
        "with model.safetensors or pytorch_model.bin (Hugging Face), a file "
        f"'{t5x_checkpoint.INDEX}' beside zarr folders (T5X) and {orbax_checkpoint.FILES[0]} (T5X "
        f"with Orbax); found {shown}. {change}"
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _describe(config: T5Config) -> str:
    names = "emb_dim num_encoder_layers num_decoder_layers num_heads head_dim mlp_dim vocab_size"
    return ", ".join(f"{name} {getattr(config, name)}" for name in names.split())
