"""T5X checkpoints in Orbax format, as `t5x.checkpoints.OrbaxCheckpointManagerInterface` saves them.

`checkpoint_<step>/state/` holds one array per parameter, named `target.encoder.encoder_norm.scale`,
in zarr: inside an OCDBT database (`manifest.ocdbt`), or as a folder each. The names are read from
the store itself, which says the same in every version of Orbax. Optimizer state is not read.
"""

import re
from typing import Any

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.t5x_checkpoint import open_array, open_store, tensorstore_context
from dpt_jax.tensors import Tensor

# T5X's TrainState, Flax's, and a bare tree of parameters.
_PREFIXES = ("target.", "params.", "")
_DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}
_MANIFEST = "manifest.ocdbt"
# What shows that a folder is Orbax's.
FILES = (_MANIFEST, "_METADATA", "_CHECKPOINT_METADATA")


def find_item(location: str) -> str | None:
    """The URL of the arrays of a checkpoint at `location`, or None where Orbax wrote none there.

    Args:
      location: the URL of a step's folder, or of its `state`.
    """
    base = location.rstrip("/") + "/"
    store = open_store(base)
    for item in ("state/", "default/", ""):
        for name in (_MANIFEST, "_METADATA"):
            if store.read(item + name).result().state == "value":
                return base + item
    return None


def open_checkpoint(item: str) -> dict[str, Tensor]:
    """Opens the arrays at `item`, a URL: a T5's parameters under T5X's names, which are ours.

    Raises:
      InputError: it holds no T5, or a damaged one.
    """
    import tensorstore as ts

    base = item.rstrip("/") + "/"
    files = open_store(base)
    database = files.read(_MANIFEST).result().state == "value"
    try:
        store = files
        if database:
            spec_of_store = {"driver": "ocdbt", "base": base}
            store = ts.KvStore.open(spec_of_store, context=tensorstore_context()).result()
        keys = [key.decode() for key in store.list().result()]
    except ValueError as error:
        raise InputError(
            f"{item} cannot be read: {error}. It may be half written or half copied; copy it "
            f"again, or change {SETTING}."
        ) from error
    arrays = {}
    for key in keys:
        folder, _, file = key.rpartition("/")
        if folder and file in _DRIVERS:
            arrays[folder] = _DRIVERS[file]
    for prefix in _PREFIXES:
        if f"{prefix}token_embedder.embedding" in arrays:
            break
    else:
        shown = ", ".join(sorted(arrays)[:3]) or "nothing"
        raise InputError(
            f"{item} is an Orbax checkpoint without a T5: it has no array "
            f"'target.token_embedder.embedding', but {shown}. Change {SETTING}."
        )

    def spec(folder: str) -> dict[str, Any]:
        path = folder + "/"
        kvstore = {"driver": "ocdbt", "base": base, "path": path} if database else base + path
        return {"driver": arrays[folder], "kvstore": kvstore}

    tensors = {}
    for folder in sorted(arrays):
        name = folder.removeprefix(prefix).replace(".", "/")
        if folder.startswith(prefix) and re.match("token_embedder/|encoder/|decoder/", name):
            tensors[name] = open_array(spec(folder), name).as_weight(f"{item}: {name}")
    return tensors
