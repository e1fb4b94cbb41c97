"""T5X checkpoints in the released format: msgpack beside one zarr folder a parameter.

The msgpack file `checkpoint` holds the tree of names, with a TensorStore spec where an array
would be; the array lies in the folder that the spec names, `target.encoder.encoder_norm.scale`.
Optimizer state (`state.…`) is not read.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpt_jax.errors import InputError
from dpt_jax.interop.tensors import Shape, Tensor, flatten, in_memory
from dpt_jax.models import T5Config

INDEX = "checkpoint"


def open_checkpoint(location: str) -> dict[str, Tensor]:
    """Opens a checkpoint: its parameters under T5X's names, which are ours.

    Args:
      location: the checkpoint's URL, `file:///…` or `gs://…`.

    Raises:
      InputError: no checkpoint, or not a whole one.
    """
    import tensorstore as ts
    from flax import serialization

    base = location.rstrip("/") + "/"
    try:
        stored = ts.KvStore.open(base).result().read(INDEX).result()
    except ValueError as error:
        raise InputError(
            f"{location} cannot be read: {error}. Set INITIAL_CHECKPOINT_PATH."
        ) from error
    if stored.state != "value":
        raise InputError(
            f"{location} has no file '{INDEX}', which a T5X checkpoint has beside its parameters. "
            "Set INITIAL_CHECKPOINT_PATH to a whole checkpoint folder."
        )
    try:
        tree = serialization.msgpack_restore(stored.value)
        # Version 3 puts everything below "optimizer".
        target = tree.get("optimizer", tree)["target"]
    except Exception as error:
        raise InputError(
            f"{base}{INDEX} is not a T5X checkpoint's index ({error!r}). It may be half written; "
            "copy it again, or change INITIAL_CHECKPOINT_PATH."
        ) from error
    return {
        name: _open_parameter(base, name, leaf).as_weight(f"{location}: {name}")
        for name, leaf in flatten(_stop_at_specs(target)).items()
    }


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
    import tensorstore as ts

    if not isinstance(leaf, _Spec):
        return in_memory(np.asarray(leaf))
    folder = f"{base}{leaf.folder}/"
    try:
        store = ts.open(
            # A missing chunk would otherwise read as zeros.
            {"driver": "zarr", "kvstore": folder, "fill_missing_data_reads": False}
        ).result()
    except ValueError as error:
        raise _unreadable(name, folder, error) from error

    def read() -> np.ndarray:
        try:
            return store.read().result()
        except ValueError as error:
            raise _unreadable(name, folder, error) from error

    return Tensor(tuple(store.shape), store.dtype.numpy_dtype, read)


def _unreadable(name: str, folder: str, error: Exception) -> InputError:
    return InputError(
        f"Parameter {name} cannot be read from {folder}: {error}. The checkpoint may be half "
        "written or half copied; copy it again, or change INITIAL_CHECKPOINT_PATH."
    )


def infer_config(shapes: Mapping[str, Shape], where: str) -> T5Config:
    """Tells a T5's sizes by the shapes of its parameters.

    The one thing that shapes do not say is the gate of a gated MLP; all T5s that T5X released with
    one have GELU. Dropout is the user's choice and starts at 0.

    Raises:
      InputError: a parameter that every T5 has is missing.
    """

    def shape(name: str, rank: int) -> Shape:
        found = shapes.get(name)
        if found is None or len(found) != rank:
            stored = "is missing" if found is None else f"has shape {found}"
            raise InputError(
                f"{where} is not a whole T5: parameter {name} {stored}. "
                "Change INITIAL_CHECKPOINT_PATH."
            )
        return found

    def layers(stack: str) -> int:
        numbers = (re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes)
        return 1 + max((int(match[1]) for match in numbers if match), default=-1)

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
