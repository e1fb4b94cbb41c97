"""Taking a prompt home: `.npy`, safetensors and PEFT, each with a README on how to load it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float32

from dpt_jax.errors import InputError
from dpt_jax.files import TEMPORARY_MARK, atomic_folder, atomic_write, entries, write_text
from dpt_jax.interop import peft_adapter
from dpt_jax.interop.peft_adapter import BaseModel
from dpt_jax.interop.prompts import save_prompt
from dpt_jax.interop.stored_prompt import FACTOR_PREFIX, SAFETENSORS, TENSOR
from dpt_jax.paths import as_path, in_bucket
from dpt_jax.run_files import FACTORS, PROMPT

FORMATS = ("npy", "peft", "safetensors")
README = "README.md"
# What messages call the arguments that the command line gives.
FLAGS: Mapping[str, str] = {"path": "--output", "format": "--format"}
# In every README of ours, and hardly in one of somebody else's.
MARK = "In dpt-jax: `dpt evaluate"
# In a README, for a model that is not known.
UNKNOWN_BASE = "path/to/t5"
# What a folder of each format holds, the file last without which it is no prompt.
_FILES = {
    "npy": (README, FACTORS, PROMPT),
    "peft": (README, peft_adapter.WEIGHTS, peft_adapter.CONFIG),
    "safetensors": (README, SAFETENSORS),
}


def export_prompt(
    path: str | os.PathLike,
    prompt: Float32[np.ndarray, "length embed"],
    factors: Mapping[str, np.ndarray] | None = None,
    format: str = "npy",
    base: BaseModel | None = None,
    origin: str = "",
    flags: Mapping[str, str] = FLAGS,
) -> None:
    """Writes a prompt for others to load. What an earlier export left at `path` is replaced whole.

    Args:
      path: a folder; or a file that ends in `.npy` or `.safetensors`, whose README is beside it
        under the file's whole name.
      prompt: the folded prompt.
      factors: the parameters it was folded from; written where the format has a place for them.
      format: one of `FORMATS`; that of a file is the one it ends in.
      base: what is known of the model it was trained for; only PEFT's format keeps it.
      origin: where the prompt comes from, a sentence for the README.
      flags: what set `path` and `format`, for messages.

    Raises:
      InputError: `path` does not fit the format, or is a folder with other files in it.
    """
    target = as_path(path)
    suffix = target.suffix.removeprefix(".")
    if suffix in ("npy", "npz", "safetensors", "pt", "bin") and suffix != format:
        raise InputError(
            f"{flags['path']} = {target} ends in .{suffix}, but {flags['format']} is {format}. "
            f"Give a folder{'' if format == 'peft' else f' or a name that ends in .{format}'}."
        )
    factors = flatten_dict(factors or {}, sep="/")
    base = base or BaseModel()
    if suffix == format:
        if target.is_dir():
            raise InputError(f"{flags['path']} = {target} is a folder; a file was to be written.")
        if format == "npy":
            save_prompt(target, prompt)
        else:
            _save_safetensors(target, prompt, factors)
        write_text(
            target.with_name(f"{target.name}.{README}"),
            _readme(target, prompt, format, base, origin),
        )
        return
    check_replaceable(target, format, _FILES[format], flags["path"])
    with atomic_folder(target, last=_FILES[format][-1], replace=True) as folder:
        write_text(folder / README, _readme(target, prompt, format, base, origin))
        if format == "npy":
            save_prompt(folder, prompt, unflatten_dict(factors, sep="/") if factors else None)
        elif format == "safetensors":
            _save_safetensors(folder / SAFETENSORS, prompt, factors)
        else:
            peft_adapter.write_adapter(folder, prompt, base)


def check_replaceable(
    path: Any, format: str, files: Sequence[str], flag: str = FLAGS["path"]
) -> None:
    """Raises InputError for a folder that is more than what an earlier export left.

    Args:
      path: the folder, which need not exist.
      format: what is to be written, for the message.
      files: what such an export writes.
      flag: what set `path`, for the message.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{flag} = {path} is a file; {format} is written into a folder.")
    if not in_bucket(path) and path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise InputError(
            f"{flag} = {path} holds the working directory, which cannot be replaced. Name a "
            "folder in it."
        )
    names = {entry.name for entry in entries(path) if TEMPORARY_MARK not in entry.name}
    ours = set(files)
    if README in names and MARK not in (path / README).read_bytes().decode(errors="replace"):
        ours.remove(README)
    others = sorted(names - ours)
    if others:
        raise InputError(
            f"{flag} = {path} holds {', '.join(others[:4])}{', …' if others[4:] else ''}, which "
            f"no export in {format} writes. Name a new folder."
        )


def _save_safetensors(path: Path, prompt: np.ndarray, factors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    tensors = {TENSOR: prompt, **{FACTOR_PREFIX + name: a for name, a in factors.items()}}
    with atomic_write(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            temporary,
            metadata={"format": "pt", "content": "dpt-jax prompt"},
        )


def _readme(path: Path, prompt: np.ndarray, format: str, base: BaseModel, origin: str) -> str:
    length, width = prompt.shape
    name = path.name or path.resolve().name
    about = (
        f"A soft prompt for T5, float32 `[{length}, {width}]`, which goes in front of the "
        f"encoder's embedded input. {origin}".rstrip()
    )
    if format == "peft" and base.name_or_path is None:
        about += (
            f" `{UNKNOWN_BASE}` stands for the Hugging Face T5 that it was trained for; `dpt "
            "export --base_model` names it."
        )
    return (
        f"# {name}\n\n{about}\n\n```python\n{_how_to_load(name, format, base)}\n```\n\n"
        f"{MARK} --model_dir=RUN --prompt={name}`, `dpt inspect {name}`.\n"
    )


def _how_to_load(name: str, format: str, base: BaseModel) -> str:
    """At most five lines of Python, to be run beside `name`."""
    if format == "npy":
        file = name if name.endswith(".npy") else f"{name}/{PROMPT}"
        return f"import numpy as np\n\nprompt = np.load({file!r})"
    if format == "safetensors":
        file = name if name.endswith(".safetensors") else f"{name}/{SAFETENSORS}"
        load = f"prompt = load_file({file!r})[{TENSOR!r}]"
        return f"from safetensors.numpy import load_file\n\n{load}"
    t5 = base.name_or_path or UNKNOWN_BASE
    return f"""from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained({t5!r}), {name!r})
batch = AutoTokenizer.from_pretrained({t5!r})(["a text"], padding=True, return_tensors="pt")
outputs = model.generate(**batch, max_new_tokens=16)"""
