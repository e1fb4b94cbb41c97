"""Folders of Hugging Face's T5: weight names, and the files that they come in.

PyTorch stores a linear map's weight as `[out, in]`, T5X its kernel as `[in, out]`; the relative
position table is `[buckets, heads]` there and `[heads, buckets]` here.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop import embedding_tables
from dpt_jax.interop.hugging_face_config import config_from_hugging_face, config_to_hugging_face
from dpt_jax.interop.new_folder import new_folder
from dpt_jax.interop.parameters import check_both_stacks, check_parameters, parameter_shapes
from dpt_jax.interop.safetensors_file import open_safetensors, write_safetensors
from dpt_jax.interop.torch_weights import open_torch_weights
from dpt_jax.models import T5Config
from dpt_jax.tensors import Tensor

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
WEIGHT_FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")
# The largest file that Transformers has long written; hubs and loaders are used to it.
SHARD_BYTES = 5_000_000_000

# The first T5 releases stored it, and no model reads it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}


def weight_name(name: str) -> tuple[str, bool]:
    """Hugging Face's name of one of our parameters, and whether its axes are the other way round.

    >>> weight_name("decoder/layers_3/encoder_decoder_attention/out/kernel")
    ('decoder.block.3.layer.1.EncDecAttention.o.weight', True)
    """
    if name == "token_embedder/embedding":
        return embedding_tables.EMBEDDING, False
    if name == "decoder/logits_dense/kernel":
        return embedding_tables.HEAD, True
    stack, part, *rest = name.split("/")
    if "relpos_bias" in name:
        # That of a whole stack is in its first layer there.
        number = "0" if part == "relpos_bias" else part.removeprefix("layers_")
        return f"{stack}.block.{number}.layer.0.SelfAttention.relative_attention_bias.weight", True
    if part == f"{stack}_norm":
        return f"{stack}.final_layer_norm.weight", False
    index = part.removeprefix("layers_")
    mlp = 1 if stack == "encoder" else 2
    blocks = {
        "attention": (0, "SelfAttention"),
        "self_attention": (0, "SelfAttention"),
        "encoder_decoder_attention": (1, "EncDecAttention"),
        "cross_attention": (1, "EncDecAttention"),
        "mlp": (mlp, "DenseReluDense"),
    }
    block = rest[0].removeprefix("pre_").removesuffix("_layer_norm")
    layer, kind = blocks[block]
    prefix = f"{stack}.block.{index}.layer.{layer}"
    if rest[0].endswith("_layer_norm"):
        return f"{prefix}.layer_norm.weight", False
    return f"{prefix}.{kind}.{_PROJECTIONS.get(rest[1], rest[1])}.weight", True


def open_folder(folder: Path) -> tuple[T5Config, dict[str, Tensor], dict[str, Any]]:
    """Opens a folder: its `T5Config`, its tensors under our names and axes, and its `config.json`.

    Tensors that the folder lacks are left out of the table; the caller's check names them.

    Raises:
      InputError: the folder is not a whole encoder-decoder T5 of the forms the network knows.
    """
    raw = read_json(folder / "config.json")
    config = config_from_hugging_face(raw, str(folder))
    weights = open_weights(folder)
    check_both_stacks(folder, {name.split(".block.")[0] for name in weights})
    weights = embedding_tables.settle(folder, raw, config, weights)

    tensors = {}
    names = {}
    for ours in parameter_shapes(config):
        theirs, transposed = weight_name(ours)
        names[theirs] = ours
        if theirs in weights:
            tensor = weights[theirs].as_weight(f"{folder}: {theirs}")
            tensors[ours] = tensor.transposed() if transposed else tensor
    unknown = [name for name in weights if name not in names and name != _UNUSED]
    if unknown:
        raise InputError(
            f"{folder} holds {len(unknown)} tensor(s) that its config.json does not account for, "
            f"the first {unknown[0]} {weights[unknown[0]].shape}. Change {SETTING}, "
            "or copy the folder again."
        )
    return config, tensors, raw


def write_folder(
    path: Path,
    config: T5Config,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, Path] | None = None,
    origin: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] = lambda nbytes: None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that `T5ForConditionalGeneration.from_pretrained` loads, whole or not at all.

    Args:
      path: the folder to make; it must not exist, or be empty.
      config: the network.
      tensors: its parameters under our names and axes.
      files: other files to put beside them, by the names they get.
      origin: the `config.json` that the model once came with.
      progress: called with the number of bytes after each piece that was written.
      shard_bytes: weights above this are written as several files with an index.

    Raises:
      InputError: the parameters do not fit `config`, Transformers has no such T5, `path` holds
        something already, or its disk is full.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_parameters(str(path), shapes, config, "the T5Config", "Use their own config.")
    weights = {}
    for ours, tensor in tensors.items():
        theirs, transposed = weight_name(ours)
        weights[theirs] = tensor.transposed() if transposed else tensor
    raw = config_to_hugging_face(config, weights[embedding_tables.EMBEDDING].dtype.name, origin)
    files = dict(files or {})
    nbytes = sum(tensor.nbytes for tensor in weights.values())
    with new_folder(path, nbytes) as folder:
        shards = _shards(weights, shard_bytes)
        for name, shard in shards.items():
            write_safetensors(folder / name, shard, progress)
        if len(shards) > 1:
            places = {weight: name for name, shard in shards.items() for weight in shard}
            index = {"metadata": {"total_size": nbytes}, "weight_map": dict(sorted(places.items()))}
            _write_json(folder / f"{SAFETENSORS}.index.json", index)
        for name, file in files.items():
            shutil.copyfile(file, folder / name)
        if "generation_config.json" not in files:
            tokens = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
            stated = {name: raw[name] for name in tokens}
            _write_json(folder / "generation_config.json", {"_from_model_config": True} | stated)
        _write_json(folder / "config.json", raw)


def _shards(weights: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, Tensor]]:
    """Splits weights over files of at most `limit` bytes, or one tensor, by the files' names."""
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in weights.items():
        if used and used + tensor.nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    if len(shards) == 1:
        return {SAFETENSORS: shards[0]}
    return {
        f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard
        for i, shard in enumerate(shards, 1)
    }


def open_weights(folder: Path) -> dict[str, Tensor]:
    """Opens every tensor of a folder under Hugging Face's names, whichever files it has them in.

    Raises:
      InputError: there are none, or a file of several is missing.
    """
    for name, opener in ((SAFETENSORS, open_safetensors), (PICKLE, open_torch_weights)):
        if (folder / name).exists():
            return opener(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            return _open_shards(index, opener)
    raise InputError(
        f"{folder} has a config.json but no weights: none of {', '.join(WEIGHT_FILES)}. "
        f"Copy it again, or change {SETTING}."
    )


def _open_shards(index: Path, opener) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map. Copy the folder again.")
    tensors = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / Path(shard).name
        if not path.exists():
            count = sum(1 for file in weight_map.values() if file == shard)
            raise InputError(
                f"{path} is missing: {index.name} places {count} tensors in it. Copy it there, or "
                f"change {SETTING}."
            )
        tensors.update(opener(path))
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      InputError: the file cannot be read, is not JSON, or holds something else.
    """
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds {type(raw).__name__}, not a JSON object.")
    return raw


def _write_json(path: Path, contents: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2) + "\n")
