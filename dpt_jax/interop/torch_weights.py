"""`pytorch_model.bin`: weights that PyTorch pickled, unpickled without running what is in them."""

import ctypes
import mmap
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.errors import SETTING, InputError
from dpt_jax.tensors import BFLOAT16, Tensor


def open_torch_weights(path: Path) -> dict[str, Tensor]:
    """Opens a file: every tensor it holds, as views of the mapped file.

    Files from before PyTorch 1.6 cannot be mapped and are read whole.

    Raises:
      InputError: PyTorch is missing, the file is damaged, or it holds more than tensors.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} needs PyTorch to be read: install dpt-jax[interop], or give a folder with "
            "model.safetensors."
        ) from error

    def load(mapped: bool) -> Any:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    mapped = True
    try:
        try:
            state = load(True)
        except RuntimeError:
            mapped = False
            state = load(False)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it holds more than tensors, and reading it could run any code. "
            "Give a folder with model.safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). It may be half written or half copied; copy it "
            f"again, or change {SETTING}."
        ) from error
    if not isinstance(state, dict) or not all(torch.is_tensor(x) for x in state.values()):
        raise InputError(
            f"{path} holds {type(state).__name__} of other things than tensors; the state dict of "
            f"a model is needed. Change {SETTING}."
        )
    mappings = _mappings(path) if mapped else []
    return {name: _tensor(f"{path}: {name}", value, mappings) for name, value in state.items()}


def _tensor(where: str, value: Any, mappings: Sequence[range]) -> Tensor:
    import torch

    shape = tuple(value.shape)
    value = value.detach()
    release = _release(value, mappings)
    if value.dtype == torch.bfloat16:
        # NumPy has no bfloat16 of its own, so that PyTorch does not hand it over as such.
        bits = value.view(torch.int16)
        return Tensor(shape, BFLOAT16, lambda: bits.numpy().view(BFLOAT16), release)
    name = str(value.dtype).removeprefix("torch.")
    try:
        return Tensor(shape, np.dtype(name), value.numpy, release)
    except TypeError as error:
        raise InputError(
            f"{where} is stored as {name}; weights may be float32, bfloat16, float16 or float64. "
            f"Change {SETTING}."
        ) from error


def _mappings(path: Path) -> list[range]:
    """The addresses at which this process has mapped `path`; none where the system does not say."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    name = str(path.resolve())
    lines = (line.split(maxsplit=5) for line in maps.read_text().splitlines())
    spans = (fields[0].split("-") for fields in lines if len(fields) == 6 and fields[5] == name)
    return [range(int(first, 16), int(last, 16)) for first, last in spans]


def _release(value: Any, mappings: Sequence[range]) -> Callable[[], None]:
    """Lets the pages of a mapped tensor go, which PyTorch offers no way to do.

    They are read from the file again when needed. Memory of any other kind would be lost, so that
    only what is seen to be a mapping of the file is touched.
    """
    storage = value.untyped_storage()
    # Whole pages only, for what lies around them may be something else.
    first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
    if last <= first or not any(first in span and last - 1 in span for span in mappings):
        return lambda: None
    libc = ctypes.CDLL(None)

    def release() -> None:
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)

    return release
