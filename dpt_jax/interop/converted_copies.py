"""Copies of pretrained models in our folder, made once and used from then on."""

import hashlib
import json
import os
import re
from pathlib import Path

from dpt_jax.errors import InputError
from dpt_jax.interop.own_folder import CONFIG, stored_sizes, write_backbone
from dpt_jax.models import T5Config
from dpt_jax.tensors import Tensor


def converted_copy(
    path: str, config: T5Config, tensors: dict[str, Tensor], cache: str | os.PathLike
) -> Path:
    """Returns the folder of a copy of the model at `path`, which is made where there is none yet.

    A copy is known by where the model is, by the names, sizes and times of its files, and by its
    `config`, so that a model that was changed is converted again.

    Args:
      path: where the model is, a folder or a URL.
      config: its network.
      tensors: its parameters.
      cache: the folder of the copies.

    Raises:
      InputError: `cache` cannot be written to.
    """
    name = re.sub(r"[^\w.-]+", "_", path.rstrip("/").split("/")[-1]) or "backbone"
    copy = Path(cache).expanduser() / f"{name}-{_identity(path, config)}"
    if not (copy / CONFIG).exists():
        try:
            write_backbone(copy, config, tensors)
        except InputError as error:
            # Another process may have been faster.
            if not (copy / CONFIG).exists():
                raise InputError(f"{error} (CONVERTED_CHECKPOINT_CACHE is {cache}.)") from error
    return copy


def _identity(path: str, config: T5Config) -> str:
    files = []
    if "://" not in path:
        path = str(Path(path).expanduser().resolve())
        for file in sorted(Path(path).rglob("*")):
            state = file.stat()
            files.append((str(file), state.st_size, state.st_mtime_ns))
    facts = json.dumps([path, stored_sizes(config), files])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
