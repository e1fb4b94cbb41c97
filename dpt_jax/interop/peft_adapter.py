"""Adapter folders of PEFT (https://github.com/huggingface/peft) that hold a soft prompt.

A folder is `adapter_config.json` beside `adapter_model.safetensors` (or, from old releases,
`adapter_model.bin`), whose tensor `prompt_embeddings` holds the prompt. That of the type
PROMPT_TUNING is what was trained. P_TUNING trains an MLP or an LSTM that makes the prompt; PEFT
saves what it makes and not the network, and puts that table in front when it loads the adapter.
Writing one needs neither PEFT nor PyTorch.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from dpt_jax.errors import InputError, path_given_by
from dpt_jax.files import atomic_write, write_text
from dpt_jax.interop.hugging_face import read_json
from dpt_jax.interop.safetensors_file import open_safetensors
from dpt_jax.interop.torch_weights import open_torch_weights
from dpt_jax.tensors import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PROMPT_TUNING = "PROMPT_TUNING"
SOFT_PROMPTS = (PROMPT_TUNING, "P_TUNING")
TENSOR = "prompt_embeddings"
# Tasks whose models put the prompt in front of what a T5 encoder reads.
_TASKS = ("SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", None)


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """What an adapter says of the model it belongs to; None where it is not known.

    Attributes:
      name_or_path: what `from_pretrained` loads it by; of a folder that is there, `~` is expanded,
        which Transformers does not do.
      num_layers: layers of its encoder.
      num_attention_heads: attention heads of a layer.
      num_decoder_layers: layers of its decoder.
    """

    name_or_path: str | None = None
    num_layers: int | None = None
    num_attention_heads: int | None = None
    num_decoder_layers: int | None = None

    def __post_init__(self):
        if self.name_or_path is not None and self.name_or_path.startswith("~"):
            folder = os.path.expanduser(self.name_or_path)
            if os.path.isdir(folder):
                object.__setattr__(self, "name_or_path", folder)


def open_tensors(folder: Path, flag: str) -> dict[str, Tensor]:
    """Opens the weights of an adapter of any type; an empty table where there are none."""
    for name, opener in ((WEIGHTS, open_safetensors), (PICKLE, open_torch_weights)):
        if (folder / name).exists():
            with path_given_by(flag):
                return opener(folder / name)
    return {}


def read_adapter(
    folder: Path, flag: str
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Reads a prompt that PEFT has trained.

    Args:
      folder: the adapter's folder.
      flag: the flag or binding that gave `folder`, for the messages.

    Returns:
      The prompt `[P, D]` as it is put in front of the encoder's input, the stored tensors by name,
      and the contents of `adapter_config.json`.

    Raises:
      InputError: an adapter of another type or for another kind of model, or weights that are
        missing, do not fit the configuration or are more than a prompt.
    """
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type")
    if kind not in SOFT_PROMPTS:
        raise InputError(
            f"{folder} holds a PEFT adapter of type {kind}; only those of the types "
            f"{' and '.join(SOFT_PROMPTS)} are soft prompts. Change {flag}."
        )
    task = config.get("task_type")
    if task not in _TASKS:
        raise InputError(
            f"{folder} holds a prompt for a model of task_type {task}; a T5 takes those of "
            f"{_TASKS[0]}. Change {flag}."
        )
    stored = open_tensors(folder, flag)
    if not stored:
        raise InputError(
            f"{folder} has a {CONFIG} but neither {WEIGHTS} nor {PICKLE}: it is half copied. Copy "
            f"it again, or change {flag}."
        )
    if list(stored) != [TENSOR]:
        raise InputError(
            f"{folder} holds the tensors {', '.join(list(stored)[:4])}, but a soft prompt is "
            f"{TENSOR} alone: the adapter was trained with more than a prompt. Change {flag}."
        )
    array = stored[TENSOR].read()
    length, width = config.get("num_virtual_tokens"), config.get("token_dim")
    # Unless told otherwise, PEFT makes 2 P rows for a model with encoder and decoder. It puts the
    # first P in front of the encoder's input and uses the others nowhere (peft 0.19 to 0.21).
    blocks = config.get("num_transformer_submodules") or (2 if task == "SEQ_2_SEQ_LM" else 1)
    wanted: tuple[Any, Any] = (length, width)
    if isinstance(length, int) and isinstance(blocks, int):
        wanted = (length * blocks, width)
    if array.shape != wanted:
        raise InputError(
            f"{folder}: {TENSOR} has shape {array.shape}, but {CONFIG} says num_virtual_tokens "
            f"{length}, num_transformer_submodules {blocks} and token_dim {width}, which makes "
            f"{wanted}. Copy the folder again, or change {flag}."
        )
    return array[:length], {TENSOR: array}, config


def write_adapter(
    folder: Path, prompt: Float32[np.ndarray, "length embed"], base: BaseModel
) -> None:
    """Writes an adapter that `PeftModel.from_pretrained` loads on a Hugging Face T5.

    Args:
      folder: where to; `adapter_config.json` is written last, and without it there is no adapter.
      prompt: the folded prompt.
      base: the model it was trained for.
    """
    from safetensors.numpy import save_file

    length, width = prompt.shape
    config: Mapping[str, Any] = {
        "auto_mapping": None,
        "base_model_name_or_path": base.name_or_path,
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": base.num_attention_heads,
        "num_layers": base.num_layers,
        # The encoder's P rows alone; see `read_adapter`.
        "num_transformer_submodules": 1,
        "num_virtual_tokens": length,
        "peft_type": PROMPT_TUNING,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": "SEQ_2_SEQ_LM",
        "token_dim": width,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file({TENSOR: np.ascontiguousarray(prompt)}, temporary, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
