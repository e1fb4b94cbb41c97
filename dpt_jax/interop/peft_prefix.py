"""Adapter folders of PEFT of the type PREFIX_TUNING, read and written without PEFT.

PEFT gives a T5 a prefix in the self-attention of its decoder alone, in front of the first token.
The adapter's one tensor `prompt_embeddings [N, 2 L · heads · head_dim]` has 2 L slots a token; L is
`num_layers` of the configuration. For a model with encoder and decoder PEFT repeats the slots and
reads the key of layer l < L from slot 4 l mod 2 L, and its value from the one behind it (peft 0.14
to 0.21). With an even L, layers l and l + L/2 so have the same prefix, and half of the slots are
never read. There is nothing for a decoder of more than L layers.

`generate` of peft 0.21.2 on transformers 5.24 does not use the prefix: the argument that hands it
over has another name there. `forward` does.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import InputError
from dpt_jax.files import atomic_write
from dpt_jax.interop.hugging_face import read_json
from dpt_jax.interop.peft_adapter import CONFIG, TENSOR, WEIGHTS, BaseModel, open_tensors
from dpt_jax.interop.prefixes import FoldedPrefix

PREFIX_TUNING = "PREFIX_TUNING"
_SUBMODULES = 2  # encoder and decoder


def slots(layer: int, num_layers: int) -> tuple[int, int]:
    """Which slots hold a decoder layer's key and value.

    Args:
      layer: the decoder's layer, below `num_layers`.
      num_layers: L, as `adapter_config.json` has it.
    """
    return 4 * layer % (2 * num_layers), (4 * layer + 1) % (2 * num_layers)


def is_prefix(folder: Any) -> bool:
    """Whether a folder is an adapter of that type."""
    path = folder / CONFIG
    return path.exists() and read_json(path).get("peft_type") == PREFIX_TUNING


def check_for_peft(prefix: FoldedPrefix, base: BaseModel) -> None:
    """Raises InputError for a prefix that PEFT would compute in another way, or not at all."""
    if prefix.stacks != ("decoder",) or prefix.position_bias != "front":
        raise InputError(
            f"The prefix acts on {', '.join(prefix.stacks)} with position_bias "
            f"{prefix.position_bias!r}, but PEFT gives a T5 one in the decoder's self-attention "
            "alone, with 'front'. Train it with --gin.PREFIX_STACKS=\"('decoder',)\" and "
            "--gin.prefixes.METHOD.position_bias=\"'front'\", or take the format npy."
        )
    layers = prefix.arrays["decoder_keys"].shape[0]
    # A prefix of one layer is the first one's, unless the decoder is known to have no other.
    if layers != (base.num_decoder_layers or max(layers, 2)):
        raise InputError(
            f"The prefix acts on {layers} of the decoder's layers, but PEFT gives one to all of "
            "them. Train it with --gin.PREFIX_LAYERS=\"'all'\", or take the format npy."
        )


def write_prefix(folder: Path, prefix: FoldedPrefix, base: BaseModel) -> None:
    """Writes an adapter that `PeftModel.from_pretrained` loads on a Hugging Face T5.

    Args:
      folder: where to; `adapter_config.json` is written last, and without it there is no adapter.
      prefix: a prefix of all of the decoder's layers, in front of the text.
      base: the model it was trained for.

    Raises:
      InputError: for a prefix that PEFT would compute in another way, or not at all.
    """
    from safetensors.numpy import save_file

    check_for_peft(prefix, base)
    keys, values = prefix.arrays["decoder_keys"], prefix.arrays["decoder_values"]
    layers, length, heads, head_dim = keys.shape
    # With an odd number all layers are distinct; one layer too many is not asked for.
    num_layers = layers if layers % 2 else layers + 1
    table = np.zeros((length, 2 * num_layers, heads, head_dim), np.float32)
    for layer in range(layers):
        key, value = slots(layer, num_layers)
        table[:, key], table[:, value] = keys[layer], values[layer]
    config: dict[str, Any] = {
        "auto_mapping": None,
        "base_model_name_or_path": base.name_or_path,
        "encoder_hidden_size": heads * head_dim,
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": heads,
        "num_layers": num_layers,
        "num_transformer_submodules": _SUBMODULES,
        "num_virtual_tokens": length,
        "peft_type": PREFIX_TUNING,
        "prefix_projection": False,
        "revision": None,
        "task_type": "SEQ_2_SEQ_LM",
        # All heads together, which need not be the model's width.
        "token_dim": heads * head_dim,
    }
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file({TENSOR: table.reshape(length, -1)}, temporary, metadata={"format": "pt"})
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def read_prefix(folder: Path, decoder_layers: int | None, flag: str = "--prompt") -> FoldedPrefix:
    """Reads a prefix that PEFT has trained, as PEFT gives it to a T5.

    Args:
      folder: the adapter's folder.
      decoder_layers: layers of the T5's decoder, which the adapter does not know; None takes the
        adapter's own number.
      flag: the flag or binding that gave `folder`, for the messages.

    Raises:
      InputError: for an adapter of another type, for another kind of model, or of another layout.
    """
    config = read_json(folder / CONFIG)
    wanted = {
        "peft_type": PREFIX_TUNING,
        "task_type": "SEQ_2_SEQ_LM",
        "num_transformer_submodules": _SUBMODULES,
    }
    for name, value in wanted.items():
        if config.get(name) != value:
            raise InputError(
                f"{folder}: {name} is {config.get(name)!r} in {CONFIG}, but a prefix for a T5 has "
                f"{value!r}. Change {flag}."
            )
    stored = open_tensors(folder, flag)
    if list(stored) != [TENSOR]:
        raise InputError(
            f"{folder} holds the tensors {', '.join(list(stored)[:4]) or 'of no weights file'}, "
            f"but a prefix is {TENSOR} alone. Copy the folder again, or change {flag}."
        )
    sizes = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    length, layers, heads, width = (_positive(config.get(name)) for name in sizes)
    array = stored[TENSOR].read().astype(np.float32)
    if not heads or width % heads or array.shape != (length, 2 * layers * width):
        said = ", ".join(f"{name} {config.get(name)}" for name in sizes)
        raise InputError(
            f"{folder}: {TENSOR} has shape {array.shape}, but {CONFIG} says {said}, which makes "
            f"(num_virtual_tokens, 2 * num_layers * token_dim). Copy the folder again, or change "
            f"{flag}."
        )
    decoder_layers = layers if decoder_layers is None else decoder_layers
    if decoder_layers > layers:
        raise InputError(
            f"{folder} has prefixes for {layers} layers (num_layers), but the decoder has "
            f"{decoder_layers}. Change {flag}, or the model."
        )
    table = array.reshape(length, 2 * layers, heads, width // heads)
    read = [slots(layer, layers) for layer in range(decoder_layers)]
    _warn_of_dead_slots(folder, table, {slot for pair in read for slot in pair})
    keys, values = (np.stack([table[:, pair[i]] for pair in read]) for i in (0, 1))
    return FoldedPrefix({"decoder_keys": keys, "decoder_values": values}, "front")


def _positive(value: Any) -> int:
    """The number; 0 for what is no positive whole number."""
    return value if isinstance(value, int) and value > 0 else 0


def _warn_of_dead_slots(folder: Path, table: np.ndarray, read: set[int]) -> None:
    dead = [i for i in range(table.shape[1]) if i not in read and np.any(table[:, i])]
    if dead:
        logging.warning(
            "%s: %d of %d slots of the prefix hold values that no layer of the decoder reads; so "
            "does PEFT, which repeats slots where num_layers is even. They are left out.",
            folder,
            len(dead),
            table.shape[1],
        )
