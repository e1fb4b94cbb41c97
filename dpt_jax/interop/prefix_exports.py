"""Taking a prefix home: numpy and PEFT, each with a README on how to load it."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpt_jax.errors import InputError
from dpt_jax.files import atomic_folder, write_text
from dpt_jax.interop import peft_adapter
from dpt_jax.interop.adapters import Adapter, save_adapter
from dpt_jax.interop.peft_adapter import BaseModel
from dpt_jax.interop.peft_prefix import check_for_peft, write_prefix
from dpt_jax.interop.prompt_exports import FLAGS, MARK, README, UNKNOWN_BASE, check_replaceable
from dpt_jax.paths import as_path
from dpt_jax.run_files import FACTORS, PREFIX, PREFIX_FACTORS, PROMPT

FORMATS = ("npy", "peft")
_FILES = {
    "npy": (README, FACTORS, PROMPT, PREFIX_FACTORS, PREFIX),
    "peft": (README, peft_adapter.WEIGHTS, peft_adapter.CONFIG),
}


def export_prefix(
    path: str | os.PathLike,
    adapter: Adapter,
    factors: Mapping[str, Mapping[str, np.ndarray]],
    format: str = "npy",
    base: BaseModel | None = None,
    origin: str = "",
    flags: Mapping[str, str] = FLAGS,
) -> None:
    """Writes a prefix into a folder. What an earlier export left there is replaced whole.

    Args:
      path: the folder.
      adapter: the folded prefix, and the prompt that it was trained with, if any.
      factors: the parameters they were folded from, under `prompt` and `prefix`, as far as known.
      format: one of `FORMATS`.
      base: what is known of the model it was trained for; only PEFT's format keeps it.
      origin: where the prefix comes from, a sentence for the README.
      flags: what set `path` and `format`, for messages.

    Raises:
      InputError: the format has no place for it, or the folder has other files in it.
    """
    target, base = as_path(path), base or BaseModel()
    assert adapter.prefix is not None
    if format not in FORMATS:
        raise InputError(
            f"{flags['format']} is {format}, but a prefix is exported as {' or '.join(FORMATS)}."
        )
    if target.suffix in (".npy", ".npz", ".safetensors"):
        raise InputError(
            f"{flags['path']} = {target} would be a file, but a prefix is written into a folder."
        )
    if format == "peft":
        if adapter.prompt is not None:
            raise InputError(
                "A PEFT adapter holds a prompt or a prefix, and this run has trained both. Export "
                f"it with {flags['format']}=npy."
            )
        check_for_peft(adapter.prefix, base)
    check_replaceable(target, format, _FILES[format], flags["path"])
    with atomic_folder(target, last=_FILES[format][-1], replace=True) as folder:
        write_text(folder / README, _readme(target.name, adapter, format, base, origin))
        if format == "npy":
            save_adapter(folder, adapter, factors)
        else:
            write_prefix(folder, adapter.prefix, base)


def _readme(name: str, adapter: Adapter, format: str, base: BaseModel, origin: str) -> str:
    prefix: Any = adapter.prefix
    about = (
        f"A prefix for T5, {prefix.length} extra keys and values in front of those of the "
        f"{', '.join(prefix.stacks)} stack{'s' if prefix.stacks[1:] else ''}. {origin}".rstrip()
    )
    if adapter.prompt is not None:
        about += f" It goes with the soft prompt in `{PROMPT}`."
    if format == "npy":
        how = (
            f"import numpy as np\n\narrays = np.load({f'{name}/{PREFIX}'!r})\n"
            "# <stack>_keys and <stack>_values, float32 [layers, length, heads, head_dim]"
        )
    else:
        t5 = base.name_or_path or UNKNOWN_BASE
        how = f"""from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM
model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained({t5!r}), {name!r})"""
    return (
        f"# {name}\n\n{about}\n\n```python\n{how}\n```\n\n"
        f"{MARK} --model_dir=RUN --prompt={name}`, `dpt inspect {name}`.\n"
    )
