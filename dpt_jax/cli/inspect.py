"""Say what a file or folder is, what is in it, and what a prompt's spectrum looks like.

  dpt inspect runs/rte
  dpt inspect /models/t5-large --all
  dpt inspect rte.npy --json

Knows pretrained T5s (ours, Hugging Face's, T5X's) and ViTs (ours, Hugging Face's, the .npz of
google-research's), runs, and prompts: .npy, .npz, numpy checkpoint folders, safetensors, PEFT
adapters and the released DPT code's .pt. What it is, is told by looking inside. Parameters that
differ only in their layer are one line, unless --all is given.

Of a pretrained T5 the norm of the encoder's residual stream is measured, on random tokens; a prompt
of recipes/fast.gin starts at that of its task's own text. --no-norm does not read the encoder.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dpt_jax.cli.console import human_bytes, print_table
from dpt_jax.cli.gin_flags import refuse_bindings

if TYPE_CHECKING:
    from dpt_jax.analysis.spectrum import Spectrum

HELP = "say what a file or folder is, and show a prompt's spectrum"
# The number of a layer in a parameter's name: "layers_3/", ".block.3.".
_LAYER = re.compile(r"(?<=[._])\d+(?=[./])")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("path", metavar="PATH", help="a file, a folder, or the URL of a checkpoint")
    parser.add_argument("--all", action="store_true", help="a line for every parameter")
    parser.add_argument("--json", action="store_true", help="one JSON object, with everything")
    parser.add_argument(
        "--no-norm", action="store_true", help="do not measure a T5's residual stream"
    )


def run(args: argparse.Namespace) -> None:
    """Looks and prints."""
    from dpt_jax.analysis.spectrum import spectrum
    from dpt_jax.interop.describe import describe

    refuse_bindings(args, "dpt inspect")
    found = describe(args.path)
    rows = [(name, 1, t.shape, t.dtype.name, t.nbytes) for name, t in found.parameters.items()]
    numbers = None if found.prompt is None else spectrum(found.prompt)
    measure = found.config is not None and not args.no_norm
    if args.json:
        report = _report(args.path, found, rows, numbers)
        print(json.dumps(report | ({"residual_norm": _residual_norm(found)} if measure else {})))
        return
    _print(args.path, found, rows if args.all else _by_layer(rows), numbers)
    if measure:
        # A large model is read for a while.
        sys.stdout.flush()
        norm = _residual_norm(found)
        print(
            "Norm of the encoder's residual stream, on random tokens: "
            + ("none that is finite and above 0" if norm is None else f"{norm:g}")
        )


def _residual_norm(found: Any) -> float | None:
    """The measured norm of a pretrained T5; None where there is none of use."""
    from flax.traverse_util import unflatten_dict

    from dpt_jax.errors import InputError
    from dpt_jax.models.residual_norm import residual_norm

    params = unflatten_dict(dict(found.parameters), sep="/")
    try:
        return residual_norm(found.config, params)
    except InputError:
        return None


def _report(path: str, found: Any, rows: list[tuple], numbers: Any) -> dict[str, Any]:
    parameters = [
        {
            "name": name,
            "shape": list(shape),
            "dtype": dtype,
            "numbers": math.prod(shape),
            "bytes": nbytes,
        }
        for name, _, shape, dtype, nbytes in rows
    ]
    report: dict[str, Any] = {
        "path": path,
        "kind": found.kind,
        "summary": found.summary,
        "details": dict(found.details),
        "parameters": parameters,
        "total": {key: sum(row[key] for row in parameters) for key in ("numbers", "bytes")},
    }
    if numbers is not None:
        report["prompt"] = {
            "length": numbers.length,
            "width": numbers.width,
            "spectrum": numbers.summary(),
        }
    return report


def _by_layer(rows: Iterable[tuple]) -> list[tuple]:
    """Rows that differ only in the number of their layer, as one row each."""
    groups: dict[tuple, list[tuple]] = {}
    for row in rows:
        name, _, shape, dtype, _ = row
        groups.setdefault((_LAYER.sub("{}", name, count=1), shape, dtype), []).append(row)
    merged = []
    for (pattern, shape, dtype), members in groups.items():
        if len(members) == 1:
            merged += members
            continue
        layers = sorted(int(_LAYER.search(name)[0]) for name, *_ in members)  # type: ignore[index]
        name = pattern.replace("{}", f"{{{_ranges(layers)}}}", 1)
        merged.append((name, len(members), shape, dtype, sum(row[-1] for row in members)))
    return merged


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers as text: `0-2,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _print(path: str, found: Any, rows: list[tuple], numbers: Any) -> None:
    print(f"{path}: {found.summary}")
    if found.details:
        print_table((), [(name, _text(value)) for name, value in found.details.items()])
    if rows:
        cells = [
            (
                name,
                f"{copies:,}" if copies > 1 else "",
                " × ".join(map(str, shape)) or "scalar",
                dtype,
                f"{copies * math.prod(shape):,}",
                human_bytes(nbytes),
            )
            for name, copies, shape, dtype, nbytes in rows
        ]
        print_table(("parameter", "copies", "shape", "dtype", "numbers", "size"), cells)
        total = sum(row[1] * math.prod(row[2]) for row in rows)
        nbytes = sum(row[-1] for row in rows)
        print(f"Total: {total:,} numbers, {nbytes:,} bytes ({human_bytes(nbytes)})")
    if numbers is not None:
        _print_spectrum(numbers)


def _print_spectrum(numbers: "Spectrum") -> None:
    count, rank = len(numbers.singular_values), numbers.numerical_rank
    print(f"\nPrompt of {numbers.length} tokens, {numbers.width} wide; of {count} directions")
    print(
        f"  effective rank        {numbers.effective_rank:>8.2f}  exp(entropy of the singular "
        "values' shares), Roy and Vetterli 2007"
    )
    print(
        f"  numerical rank        {rank:>8}  singular values above {numbers.tolerance:.2g}, "
        "numpy's tolerance for float32"
    )
    for share in (0.9, 0.99):
        needed = numbers.rank_for_energy(share)
        print(
            f"  rank for {share:.0%} energy   {needed:>8}  squared singular values, largest first, "
            f"up to {share:.0%} of their sum"
        )
    values = [f"{value:.4g}" for value in numbers.singular_values[:rank]]
    width = max(map(len, values), default=0)
    print("Singular values, largest first:")
    for i in range(0, rank, 8):
        print("  " + " ".join(value.rjust(width) for value in values[i : i + 8]))
    if rank < count:
        print(f"  and {count - rank} below the tolerance, which may be rounding (--json has them)")


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, Mapping):
        value = json.dumps(value)
    return str(value)
