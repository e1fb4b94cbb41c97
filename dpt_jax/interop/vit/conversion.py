"""Writing a pretrained ViT in another format, one parameter after the other."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.interop.vit import hugging_face, own_folder
from dpt_jax.interop.vit.opening import VitBackbone, open_vit
from dpt_jax.tensors import Tensor

# What says how Transformers prepares images; it goes along.
_COMPANION = "preprocessor_config.json"


def convert_vit(
    source: str,
    target: Path,
    to: str,
    changed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    progress: Callable[[int], object],
) -> VitBackbone:
    """Copies a pretrained ViT to a new folder in our format or Hugging Face's.

    Args:
      source: what `open_vit` reads.
      target: the folder to make.
      to: "dpt" or "hf".
      changed: what is made of the parameters before they are written, such as another dtype.
      progress: called with the number of bytes after each piece that was written.

    Returns:
      The copy, open.
    """
    backbone = open_vit(source)
    write: Any = own_folder.write_vit if to == "dpt" else hugging_face.write_folder
    beside = Path(source).expanduser() / _COMPANION
    write(
        target,
        backbone.config,
        changed(backbone.tensors),
        files={_COMPANION: beside} if beside.is_file() else {},
        origin=backbone.origin,
        progress=progress,
    )
    return open_vit(target)
