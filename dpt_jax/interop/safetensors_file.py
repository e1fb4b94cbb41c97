"""Reading and writing safetensors files without a second copy in memory.

The format (https://github.com/huggingface/safetensors): eight bytes with the little-endian length
of a JSON header, the header with each tensor's dtype, shape and byte range, and the bytes. Reading
gives views of the memory-mapped file, and writing goes through the tensors one after the other;
the `safetensors` package does neither for NumPy with bfloat16.
"""

import json
import math
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dpt_jax.errors import SETTING, InputError
from dpt_jax.tensors import ALIGNMENT, BFLOAT16, Tensor

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
# The format's own limit.
_LARGEST_HEADER = 100_000_000


def open_safetensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Opens a file: every tensor it holds, read as a read-only view of the mapped file.

    Raises:
      InputError: the file is truncated or not a safetensors file.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > min(_LARGEST_HEADER, size - 8):
            raise _broken(path, f"its header ends behind the file's {size:,} bytes")
        try:
            header = json.loads(file.read(header_size))
            entries = {name: entry for name, entry in header.items() if name != _METADATA}
            spans = {name: entry["data_offsets"] for name, entry in entries.items()}
            end = max((int(span[1]) for span in spans.values()), default=0)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            OverflowError,
            RecursionError,
        ) as error:
            raise _broken(path, f"its header cannot be read ({error})") from error
        start = 8 + header_size
        if start + end > size:
            raise _broken(path, f"it has {size:,} of {start + end:,} bytes")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {
        name: _tensor(path, name, entry, mapped, start, size) for name, entry in entries.items()
    }


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    progress: Callable[[int], object] = lambda nbytes: None,
) -> None:
    """Writes a file, reading one tensor after the other.

    Args:
      path: the file to write.
      tensors: what to write, by name.
      progress: called with the number of bytes after each piece that was written.
    """
    # The format has no holes between tensors. Those that keep the alignment come first, and then
    # wide dtypes, so that every tensor starts at a multiple of its item size.
    names = sorted(
        tensors,
        key=lambda name: (
            tensors[name].nbytes % ALIGNMENT > 0,
            -tensors[name].dtype.itemsize,
            name,
        ),
    )
    # "format" is what transformers asks of a file it is to load.
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            for block in tensors[name].blocks():
                file.write(block.reshape(-1).view(np.uint8).data)
                progress(block.nbytes)


def _tensor(path: Path, name: str, entry: dict, mapped: mmap.mmap, start: int, size: int) -> Tensor:
    try:
        kind = entry["dtype"]
        shape = tuple(int(n) for n in entry["shape"])
        first, last = map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _broken(path, f"what it says of {name} cannot be read ({error!r})") from error
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise InputError(f"{path}: {name} has dtype {kind!r}; known are {', '.join(_DTYPES)}.")
    dtype, count = _DTYPES[kind], math.prod(shape)
    if first < 0 or last - first != count * dtype.itemsize or start + last > size:
        raise _broken(path, f"{name} {shape} does not fill its bytes {first} to {last}")

    def read() -> np.ndarray:
        raw = np.frombuffer(mapped, np.uint8, count * dtype.itemsize, start + first)
        return raw.view(dtype).reshape(shape)

    def release() -> None:
        # Also for the parts of a page that belong to neighbours: they are read again when needed.
        if last > first and hasattr(mapped, "madvise"):
            page = (start + first) // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, page, start + last - page)

    return Tensor(shape, dtype, read, release)


def _broken(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not a whole safetensors file: {reason}. It may be half written or half copied; "
        f"copy it again, or change {SETTING}."
    )
