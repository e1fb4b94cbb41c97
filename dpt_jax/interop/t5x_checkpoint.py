"""T5X checkpoints in the released format: msgpack beside one zarr folder per parameter.

The msgpack file `checkpoint` holds the tree of names, with a TensorStore spec where an array
would be; the array lies in the folder that the spec names, `target.encoder.encoder_norm.scale`.
Optimizer state (`state.…`) is not read.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from dpt_jax.errors import SETTING, InputError
from dpt_jax.interop.parameters import check_both_stacks
from dpt_jax.models import T5Config
from dpt_jax.tensors import Region, Shape, Tensor, aligned_empty, in_memory

INDEX = "checkpoint"
# What the names of a prompt's parameters begin with, and those of a prefix.
PROMPT, PREFIX = "prompt/", "prefix/"


def has_index(location: str) -> bool:
    """Whether the URL has the file that T5X writes last.

    Raises:
      InputError: the URL cannot be read.
    """
    return _read_index(location).state == "value"


def open_checkpoint(location: str) -> dict[str, Tensor]:
    """Opens a checkpoint: its T5's parameters under T5X's names, which are ours.

    Args:
      location: the checkpoint's URL, `file:///…` or `gs://…`.

    Raises:
      InputError: no checkpoint, or not a whole one.
    """
    trained = (PROMPT, PREFIX)
    return {name: t for name, t in _open(location).items() if not name.startswith(trained)}


def open_prompt(location: str) -> dict[str, Tensor]:
    """Opens the parameters of the prompt that `dpt_jax.t5x` saved beside a T5's, if it did.

    Args:
      location: as in `open_checkpoint`.

    Returns:
      The parameters by name, such as `A` and `B`.

    Raises:
      InputError: as `open_checkpoint` does.
    """
    found = _open(location, PROMPT)
    return {name.removeprefix(PROMPT): tensor for name, tensor in found.items()}


def prefix_parameters(location: str) -> list[str]:
    """The names of the parameters of the prefix that `dpt_jax.t5x` saved beside a T5's, if it did.

    Args:
      location: as in `open_checkpoint`.

    Raises:
      InputError: as `open_checkpoint` does.
    """
    return sorted(name.removeprefix(PREFIX) for name in _open(location, PREFIX))


def _open(location: str, prefix: str = "") -> dict[str, Tensor]:
    from flax import serialization

    base = location.rstrip("/") + "/"
    stored = _read_index(location)
    if stored.state != "value":
        raise InputError(
            f"{location} has no file '{INDEX}', which a T5X checkpoint has beside its parameters. "
            f"Set {SETTING} to a whole checkpoint folder."
        )
    try:
        tree = serialization.msgpack_restore(stored.value)
        # Version 3 puts everything below "optimizer".
        target = tree.get("optimizer", tree)["target"]
        leaves = flatten_dict(_stop_at_specs(target), sep="/")
    except Exception as error:
        raise InputError(
            f"{base}{INDEX} is not a T5X checkpoint's index ({error!r}). It may be half written; "
            f"copy it again, or change {SETTING}."
        ) from error
    return {
        name: _open_parameter(base, name, leaf).as_weight(f"{location}: {name}")
        for name, leaf in leaves.items()
        if name.startswith(prefix)
    }


@functools.cache
def tensorstore_context() -> Any:
    """How TensorStore reads: it gives up a bucket after half a minute, not after half an hour."""
    import tensorstore as ts

    retries = {"max_retries": 5, "initial_delay": "1s", "max_delay": "8s"}
    return ts.Context({"gcs_request_retries": retries, "s3_request_retries": retries})


def open_store(location: str) -> Any:
    """Opens the key-value store at a URL.

    Raises:
      ValueError: TensorStore knows no such URL.
    """
    import tensorstore as ts

    return ts.KvStore.open(location.rstrip("/") + "/", context=tensorstore_context()).result()


def _read_index(location: str) -> Any:
    try:
        return open_store(location).read(INDEX).result()
    except ValueError as error:
        raise InputError(f"{location} cannot be read: {error}. Set {SETTING}.") from error


class _Spec:
    """A TensorStore spec, kept from being taken for a branch of the tree."""

    def __init__(self, spec: Mapping[str, Any]):
        # A "cast" spec converts while reading; what it wraps is what is stored.
        self.folder = spec.get("base", spec)["kvstore"]["path"].rstrip("/").split("/")[-1]


def _stop_at_specs(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    if "driver" in tree:
        return _Spec(tree)
    return {key: _stop_at_specs(value) for key, value in tree.items()}


def _open_parameter(base: str, name: str, leaf: Any) -> Tensor:
    if not isinstance(leaf, _Spec):
        return in_memory(np.asarray(leaf))
    return open_array({"driver": "zarr", "kvstore": f"{base}{leaf.folder}/"}, name)


def open_array(spec: Mapping[str, Any], name: str) -> Tensor:
    """Opens an array of TensorStore's; it is copied chunk by chunk, to be in memory once.

    Args:
      spec: the driver and the key-value store.
      name: the parameter's name, for messages.

    Raises:
      InputError: when opened or read, if it is missing or damaged.
    """
    import tensorstore as ts

    def unreadable(error: Exception) -> InputError:
        return InputError(
            f"Parameter {name} cannot be read from {_place(spec)}: {error}. The checkpoint may be "
            f"half written or half copied; copy it again, or change {SETTING}."
        )

    try:
        # A missing chunk would otherwise read as zeros.
        store = ts.open(
            {**spec, "fill_missing_data_reads": False}, context=tensorstore_context()
        ).result()
    except ValueError as error:
        raise unreadable(error) from error

    def read(region: Region) -> np.ndarray:
        try:
            return _read_in_place(store, region)
        except ValueError as error:
            raise unreadable(error) from error

    shape = tuple(store.shape)
    whole = tuple(slice(0, n) for n in shape)
    return Tensor(shape, store.dtype.numpy_dtype, lambda: read(whole), read_region=read)


def _read_in_place(store: Any, region: Region) -> np.ndarray:
    import tensorstore as ts

    out = aligned_empty(tuple(part.stop - part.start for part in region), store.dtype.numpy_dtype)
    # TensorStore counts a region's indices from where it lies in the array, and `out`'s from 0.
    at_zero = store[region][ts.d[:].translate_to[0]] if region else store
    ts.array(out, copy=False).write(at_zero).result()
    return out


def _place(spec: Mapping[str, Any]) -> str:
    store = spec["kvstore"]
    return store if isinstance(store, str) else f"{store['base']} at {store['path']}"


def infer_config(shapes: Mapping[str, Shape], where: str) -> T5Config:
    """Tells a T5's sizes by the shapes of its parameters.

    The one thing that shapes do not say is the gate of a gated MLP; all T5s that T5X released with
    one have GELU. Dropout is the user's choice and starts at 0.

    Raises:
      InputError: a parameter that every T5 has is missing, or the network is another one.
    """

    def shape(name: str, rank: int) -> Shape:
        found = shapes.get(name)
        if found is None or len(found) != rank:
            stored = "is missing" if found is None else f"has shape {found}"
            raise InputError(
                f"{where} is not a whole T5: parameter {name} {stored}. Change {SETTING}."
            )
        return found

    def layers(stack: str) -> int:
        numbers = (re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes)
        return 1 + max((int(match[1]) for match in numbers if match), default=-1)

    check_both_stacks(where, {name.split("/")[0] for name in shapes})
    # Its names with the layers scanned over, and without.
    scalable = ("encoder/encoder/", "encoder/layers_0/relpos_bias/")
    if any(name.startswith(scalable) for name in shapes):
        raise InputError(
            f"{where} is of T5X's scalable_t5 network (umT5), whose parameters are laid out in "
            f"another way. Set {SETTING} to the Hugging Face folder of the same model."
        )
    vocab_size, emb_dim = shape("token_embedder/embedding", 2)
    num_heads, _ = shape("encoder/relpos_bias/rel_embedding", 2)
    _, joined = shape("encoder/layers_0/attention/query/kernel", 2)
    mlp_dim, _ = shape("encoder/layers_0/mlp/wo/kernel", 2)
    shape("decoder/layers_0/mlp/wo/kernel", 2)
    gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
    return T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=num_heads,
        num_encoder_layers=layers("encoder"),
        num_decoder_layers=layers("decoder"),
        head_dim=max(joined // num_heads, 1),
        mlp_dim=mlp_dim,
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        dropout_rate=0.0,
        logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
    )
