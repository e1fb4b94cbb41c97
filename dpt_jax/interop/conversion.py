"""Writing a pretrained T5 or ViT in another format, one parameter after the other."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.interop import hugging_face, own_folder
from dpt_jax.interop.backbones import Backbone, open_backbone
from dpt_jax.interop.vit import VitBackbone, convert_vit, is_vit
from dpt_jax.tensors import Tensor

FORMATS = ("dpt", "hf")
DTYPES = ("float32", "bfloat16")
_VOCABULARY = {"dpt": "sentencepiece.model", "hf": "spiece.model"}
# What tokenizers and generation of a Hugging Face folder read besides the vocabulary.
_COMPANIONS = (
    "added_tokens.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str = "dpt",
    dtype: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Backbone | VitBackbone:
    """Copies a pretrained T5 or ViT to a new folder in our format or Hugging Face's.

    Every parameter keeps its bits unless `dtype` is given. One parameter at a time is in memory.
    The vocabulary and the tokenizer's files go along, under the name that the format gives them.

    Args:
      source: the model, in any format that `open_backbone` or `open_vit` reads.
      target: the folder to make, whole or not at all; it must not exist, or be empty.
      to: "dpt" or "hf".
      dtype: "float32" or "bfloat16" for every parameter; None keeps what each is stored in.
      progress: called with the bytes written so far and in all.

    Returns:
      The copy, open.

    Raises:
      InputError: `source` is no whole model, `target` holds something or cannot be written, or the
        format has no such network.
    """
    for name, value, known in (("--to", to, FORMATS), ("--dtype", dtype, (*DTYPES, None))):
        if value not in known:
            shown = ", ".join(str(choice) for choice in known if choice)
            raise InputError(f"{name} is {value!r}; it may be {shown}.")
    if "://" in os.fspath(target):
        raise InputError(f"TARGET is {target}; it must be a folder on a disk.")
    path = Path(target).expanduser().resolve()
    _check_target(os.fspath(source), path)
    total = done = 0

    def changed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        nonlocal total
        new = {n: t if dtype is None else t.as_dtype(dtype) for n, t in tensors.items()}
        total = sum(tensor.nbytes for tensor in new.values())
        return new

    def written(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    if is_vit(source):
        return convert_vit(os.fspath(source), path, to, changed, written)
    backbone = open_backbone(source)
    tensors = changed(backbone.tensors)
    write: Any = own_folder.write_backbone if to == "dpt" else hugging_face.write_folder
    write(
        path,
        dataclasses.replace(backbone.config, dropout_rate=0.0),
        tensors,
        files=_companions(backbone.path, to),
        origin=backbone.origin,
        progress=written,
    )
    return open_backbone(path)


def _check_target(source: str, target: Path) -> None:
    # Before the source is opened, which may take long.
    if target.exists():
        if "://" not in source and Path(source).expanduser().resolve() == target:
            raise InputError(f"SOURCE and TARGET are the same folder, {target}. Name a new TARGET.")
        if not target.is_dir() or any(target.iterdir()):
            raise InputError(
                f"TARGET {target} exists{' and is not empty' if target.is_dir() else ''}. Name a "
                "new folder, or remove this one first."
            )


def _companions(source: str, to: str) -> dict[str, Path]:
    """Files to put beside the weights: their names there, and where they are."""
    if "://" in source:
        return {}
    folder = Path(source).expanduser()
    found = {name: folder / name for name in _COMPANIONS if (folder / name).is_file()}
    for name in _VOCABULARY.values():
        if (folder / name).is_file():
            found.setdefault(_VOCABULARY[to], folder / name)
    return found
