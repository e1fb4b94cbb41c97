"""Opening a soft prompt in whatever it is kept; what that is, is told by looking inside.

- numpy's `.npy` (Lester et al., and, under names without a suffix, T5X's numpy checkpoints);
- `.npz`: the factors of a prompt, or one array;
- a safetensors file with the tensor `prompt`;
- a folder with one of these: `prompt.npy` beside `prompt_params.npz` (a step of ours),
  `prompt.safetensors`, or a single numpy file (a step of T5X's);
- the folder of a run, of which the best step's prompt is taken;
- a PEFT adapter folder of type PROMPT_TUNING or P_TUNING;
- a checkpoint of `t5x.train` in T5X's released format, with the prompt beside the T5;
- a `.pt` file of the DPT authors' released code.
"""

import dataclasses
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from dpt_jax.errors import InputError, path_given_by
from dpt_jax.files import fetched
from dpt_jax.interop import peft_adapter, released_dpt, t5x_checkpoint
from dpt_jax.interop.safetensors_file import open_safetensors
from dpt_jax.paths import as_path, in_bucket
from dpt_jax.run_files import (
    FACTORS,
    NUMPY_CHECKPOINTS,
    PREFIX,
    PROMPT,
    best_step,
    numpy_checkpoints,
)
from dpt_jax.tensors import BFLOAT16

SAFETENSORS = "prompt.safetensors"
# Where a safetensors file has the prompt, and in front of the names of its factors.
TENSOR, FACTOR_PREFIX = "prompt", "factors/"

FORMATS = {
    "npy": "a numpy array (.npy)",
    "npz": "a numpy archive (.npz)",
    "safetensors": "a safetensors file",
    "numpy_checkpoint": "a numpy checkpoint folder",
    "peft": "a PEFT adapter folder",
    "t5x": "trained by T5X and saved beside its T5",
    "released_dpt": "a file of the DPT authors' released code (.pt)",
}
LOOKED_FOR = (
    "numpy's .npy and .npz, safetensors, PyTorch's .pt of the released DPT code, and folders with "
    f"{PROMPT}, {SAFETENSORS}, one numpy file, {peft_adapter.CONFIG} (PEFT) or "
    f"{NUMPY_CHECKPOINTS} (a run)"
)


class NotAPrompt(InputError):
    """Nothing that was looked for: another file or folder, not a damaged prompt."""

    def __init__(self, path: Path, found: str, flag: str):
        super().__init__(
            f"{path} is no prompt; it {found}. Looked for {LOOKED_FOR}. Change {flag}."
        )
        self.found = found


@dataclasses.dataclass(frozen=True)
class StoredPrompt:
    """A soft prompt as it was found.

    Attributes:
      path: the file, or the folder that is one prompt.
      format: which of `FORMATS`.
      arrays: everything that is stored, under the names it is stored under.
      prompt: the prompt, float32 `[P, D]`; None where only its method can make it of `arrays`.
      factors: the method's own parameters, names joined with "/"; None where only the prompt is
        stored.
      details: what else the file says of itself, ready for JSON.
    """

    path: Path
    format: str
    arrays: Mapping[str, np.ndarray]
    prompt: Float32[np.ndarray, "length embed"] | None
    factors: Mapping[str, np.ndarray] | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def format_in_words(self) -> str:
        """What it is kept in, a PEFT adapter with its type."""
        kind = f" of type {self.details['peft_type']}" if self.format == "peft" else ""
        return FORMATS[self.format] + kind


def open_prompt(path: str | os.PathLike, flag: str = "--prompt") -> StoredPrompt:
    """Opens what `path` holds, one of the things this module's docstring lists.

    Raises:
      InputError: there is no such file, it is damaged, or it is no prompt; `flag`, which gave the
        path, is named.
    """
    found = as_path(path)
    if in_bucket(found) and found.exists():
        return _open_in_bucket(found, flag)
    return _open(found, flag)


def _open_in_bucket(path: Any, flag: str) -> StoredPrompt:
    if path.is_dir() and (stored := _open_run(path, flag)) is not None:
        return stored
    with fetched(path) as copy:
        try:
            return dataclasses.replace(_open(copy, flag), path=path)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(path))) from error


def _open(path: Path, flag: str) -> StoredPrompt:
    if path.is_dir():
        return _open_folder(path, flag)
    if not path.exists():
        raise InputError(f"There is no prompt file {path}. Change {flag}.")
    kind = _file_format(path)
    if kind is None:
        raise NotAPrompt(path, _beginning(path), flag)
    if kind == "npy":
        array = _read_npy(path, flag)
        return StoredPrompt(path, kind, {TENSOR: array}, _checked(array, path, flag))
    if kind == "npz":
        factors = read_npz(path, flag)
        return StoredPrompt(path, kind, factors, _fold(factors, path, flag), factors)
    if kind == "safetensors":
        return _open_safetensors(path, flag)
    if path.name == peft_adapter.PICKLE and (path.parent / peft_adapter.CONFIG).exists():
        return _open_adapter(path.parent, flag)
    factors, arrays, details = released_dpt.read_soft_prompt(path, flag)
    return StoredPrompt(path, kind, arrays, _fold(factors, path, flag), factors, details)


def read_npz(path: Path, flag: str) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name.

    Raises:
      InputError: the file is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: _bfloat16(archive[name]) for name in archive.files}
    # NumPy reads a header as Python, and an archive as zip: their errors are many.
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a .npz file of arrays: {error}. It may be half copied; "
            f"change {flag}."
        ) from error


def _file_format(path: Path) -> str | None:
    with open(path, "rb") as file:
        head = file.read(9)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    # The length of the header in eight bytes, any of which may also be what another format begins
    # with, and then the header, which is JSON.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                pickled = any(name.endswith("/data.pkl") for name in archive.namelist())
        except Exception:
            # Cut short, or damaged in another of the many ways that `zipfile` knows. The reader of
            # what it was meant to be says so.
            pickled = path.suffix != ".npz"
        return "released_dpt" if pickled else "npz"
    # A pickle's first byte; PyTorch before 1.6 wrote no archives.
    return "released_dpt" if head.startswith(b"\x80") else None


def _beginning(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(16)
    return f"is a file that begins with {head!r}" if head else "is an empty file"


def _open_folder(folder: Path, flag: str) -> StoredPrompt:
    if (folder / peft_adapter.CONFIG).exists():
        return _open_adapter(folder, flag)
    if (folder / PROMPT).exists():
        stored = open_prompt(folder / PROMPT, flag)
        factors = read_npz(folder / FACTORS, flag) if (folder / FACTORS).exists() else None
        arrays = {**stored.arrays, **{f"{FACTORS}: {n}": a for n, a in (factors or {}).items()}}
        return dataclasses.replace(
            stored, path=folder, format="numpy_checkpoint", arrays=arrays, factors=factors
        )
    if (folder / PREFIX).exists():
        raise InputError(
            f"{folder} holds a prefix ({PREFIX}) and no soft prompt. Change {flag}; dpt evaluate, "
            "predict, export and inspect take prefixes."
        )
    if (folder / SAFETENSORS).exists():
        return open_prompt(folder / SAFETENSORS, flag)
    if (folder / t5x_checkpoint.INDEX).is_file() and (of_t5x := _open_t5x(folder, flag)):
        return of_t5x
    # One of T5X's numpy checkpoints has a file for each of its parameters, and nothing else.
    entries = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    files = [p for p in entries if p.suffix != ".md"]
    files = files if all(p.is_file() and _is_npy(p) for p in files) else []
    if len(files) == 1:
        stored = open_prompt(files[0], flag)
        return dataclasses.replace(stored, path=folder, format="numpy_checkpoint")
    if (best := _open_run(folder, flag)) is not None:
        return best
    if files:
        raise _several(folder, "several numpy arrays", files, flag)
    found = ", ".join(p.name for p in entries[:8]) + (", …" if len(entries) > 8 else "")
    raise NotAPrompt(folder, f"holds {found or 'nothing'}", flag)


def _open_run(folder: Any, flag: str) -> StoredPrompt | None:
    """The best step of a run's folder, or of the folder of its prompts; None where it is none."""
    absolute = folder if in_bucket(folder) else folder.resolve()
    run = folder.parent if absolute.name == NUMPY_CHECKPOINTS else folder
    steps = numpy_checkpoints(run)
    best = best_step(run) if len(steps) > 1 else next(iter(steps), None)
    if best is not None and best in steps:
        return dataclasses.replace(open_prompt(steps[best], flag), details={"step": best})
    if steps:
        raise _several(folder, "the prompts of several steps", steps.values(), flag)
    return None


def _several(folder: Any, what: str, paths: Iterable[Any], flag: str) -> InputError:
    names = ", ".join(map(str, paths))
    return InputError(f"{folder} holds {what}; name one with {flag}: {names}.")


def _open_t5x(folder: Path, flag: str) -> StoredPrompt | None:
    with path_given_by(flag):
        url = str(folder) if in_bucket(folder) else folder.resolve().as_uri()
        if prefix := t5x_checkpoint.prefix_parameters(url):
            # What they fold into depends on the method, and for some on the T5.
            raise InputError(
                f"{folder} holds a prefix as its method's own parameters ({', '.join(prefix)}). "
                f"Name with {flag} what t5x.train wrote of the same step into the run's "
                f"{NUMPY_CHECKPOINTS}, which holds its keys and values."
            )
        tensors = t5x_checkpoint.open_prompt(url)
        factors = {name: tensor.read() for name, tensor in tensors.items()}
    if not factors:
        return None
    return StoredPrompt(folder, "t5x", factors, _fold(factors, folder, flag), factors)


def _is_npy(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _open_adapter(folder: Path, flag: str) -> StoredPrompt:
    prompt, arrays, config = peft_adapter.read_adapter(folder, flag)
    details = {name: value for name, value in config.items() if value is not None}
    unused = sum(len(array) for array in arrays.values()) - len(prompt)
    if unused:
        details["note"] = f"the prompt is the first {len(prompt)} rows; PEFT uses no others"
    return StoredPrompt(folder, "peft", arrays, _checked(prompt, folder, flag), None, details)


def _open_safetensors(path: Path, flag: str) -> StoredPrompt:
    with path_given_by(flag):
        tensors = open_safetensors(path)
    if path.name == peft_adapter.WEIGHTS and (path.parent / peft_adapter.CONFIG).exists():
        return _open_adapter(path.parent, flag)
    if TENSOR not in tensors:
        names = ", ".join(list(tensors)[:4]) + (", …" if len(tensors) > 4 else "")
        raise InputError(
            f"{path} is a safetensors file, but has no tensor {TENSOR!r}; it holds {names}. For a "
            f"PEFT adapter, name its folder with {peft_adapter.CONFIG}. Change {flag}."
        )
    arrays = {name: tensor.read() for name, tensor in tensors.items()}
    factors = {
        name.removeprefix(FACTOR_PREFIX): array
        for name, array in arrays.items()
        if name.startswith(FACTOR_PREFIX)
    }
    prompt = _checked(arrays[TENSOR], path, flag)
    return StoredPrompt(path, "safetensors", arrays, prompt, factors or None)


def _read_npy(path: Path, flag: str) -> np.ndarray:
    try:
        return _bfloat16(np.load(path, allow_pickle=False))
    except Exception as error:  # As above.
        raise InputError(
            f"{path} cannot be read as a .npy file: {error}. It may be half copied; change {flag}."
        ) from error


def _bfloat16(array: np.ndarray) -> np.ndarray:
    # numpy writes bfloat16, a type it does not know, as two raw bytes.
    return array.view(BFLOAT16) if array.dtype == np.dtype("V2") else array


def _fold(factors: Mapping[str, np.ndarray], path: Path, flag: str) -> np.ndarray | None:
    """The prompt that factors make; None where that takes the method they belong to."""
    if set(factors) == {"A", "B"}:
        a, b = factors["A"], factors["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise InputError(
                f"{path} holds A {a.shape} and B {b.shape}, which have no product. Change {flag}."
            )
        return _checked(a.astype(np.float32) @ b.astype(np.float32), path, flag)
    if len(factors) == 1:
        return _checked(next(iter(factors.values())), path, flag)
    return None


def _checked(array: np.ndarray, path: Path, flag: str) -> np.ndarray:
    from dpt_jax.prompts import prompt_array

    try:
        return prompt_array(array, str(path))
    except ValueError as error:
        raise InputError(f"{error} Change {flag}.") from error
