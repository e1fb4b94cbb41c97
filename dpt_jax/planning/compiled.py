"""What a compiled program does: operations, bytes of memory moved, and collectives, per device.

XLA's own totals count the body of a loop once however often it runs, and count as memory what the
compiler has put into the chip's fast memory. Here the program's text is read instead: loops are
multiplied by their trips, and bytes are those that cross between a device's main memory and its
cores.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from dpt_jax.planning.device_groups import exchanging_group
from dpt_jax.planning.hlo import Array, Computation, Instruction, Module, parse

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# They move nothing, or are counted where they start.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "iota",
    "domain",
}
_SLICES = {"slice", "dynamic-slice", "gather"}
_VIEWS = {"bitcast", "reshape", "transpose", "copy", "convert"}


@dataclasses.dataclass(frozen=True)
class Work:
    """One instruction's cost each time it runs.

    Attributes:
      flops: operations of matrix products; a multiplication and an addition are two.
      bytes: bytes read from and written to main memory.
      times: how often it runs.
      waits: False for copies that go on beside other instructions.
      name: where in the network it comes from, as the program tells; may be empty.
    """

    flops: float
    bytes: float
    times: int
    waits: bool = True
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
      kind: its name in HLO, such as `all-reduce`.
      bytes_sent: what every device sends each time, by the ring algorithms: of `n` devices, an
        all-gather or reduce-scatter moves `(n - 1) / n` of the whole array, an all-reduce twice
        that.
      group: the devices of one of its groups, as places in the flattened mesh.
      times: how often it runs.
    """

    kind: str
    bytes_sent: float
    group: tuple[int, ...]
    times: int


@dataclasses.dataclass(frozen=True)
class Costs:
    """Everything a program does on one device."""

    work: tuple[Work, ...]
    collectives: tuple[Collective, ...]

    @property
    def flops(self) -> float:
        """Operations of matrix products."""
        return sum(w.flops * w.times for w in self.work)

    @property
    def bytes(self) -> float:
        """Bytes read from and written to main memory."""
        return sum(w.bytes * w.times for w in self.work)

    @property
    def collective_bytes(self) -> float:
        """Bytes sent to other devices."""
        return sum(c.bytes_sent * c.times for c in self.collectives)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """How often each kind of collective runs and the bytes it sends."""
        kinds: dict[str, dict[str, float]] = {}
        for c in self.collectives:
            total = kinds.setdefault(c.kind, {"count": 0, "bytes": 0.0})
            total["count"] += c.times
            total["bytes"] += c.bytes_sent * c.times
        return kinds


def read_costs(text: str) -> Costs:
    """Reads the costs from the text of an optimized program (`compiled.as_text()`).

    A loop whose trips depend on data counts as often as its bound says, where its condition
    compares with a constant.
    """
    module = parse(text)
    reader = _Reader(module)
    reader.read(module.entry, 1)
    return Costs(tuple(reader.work), tuple(reader.collectives))


class _Reader:
    def __init__(self, module: Module):
        self.module = module
        self.work: list[Work] = []
        self.collectives: list[Collective] = []

    def read(self, computation: Computation, times: int) -> None:
        """Adds what `computation` costs, run `times` times."""
        # A TPU spreads one exchange over several fusions, each of which names its channel.
        channels: set[str] = set()
        for instruction in computation.instructions:
            if instruction.opcode == "fusion":
                self._read_fusion(computation, instruction, times, channels)
            else:
                self._read_instruction(computation, instruction, times)

    def _read_instruction(self, computation: Computation, i: Instruction, times: int) -> None:
        opcode = i.opcode
        kind = opcode.removesuffix("-start")
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return
        if kind in COLLECTIVES:
            self._add_collective(kind, computation, i, times)
        elif opcode == "while":
            trips = _trip_count(self.module, i)
            for name in ("condition", "body"):
                self.read(self.module.computations[str(i.called(name))], times * trips)
        elif opcode == "conditional":
            self._read_conditional(i, times)
        elif opcode == "call":
            self.read(self.module.computations[str(i.called("to_apply"))], times)
        elif opcode == "async-start":
            self.read(self.module.computations[str(i.called("calls"))], times)
        elif opcode.endswith("-start"):
            moved = _moved_beside(computation, i)
            self.work.append(Work(0.0, moved, times, waits=False, name=origin(i)))
        else:
            flops = matrix_flops(computation, i)
            self.work.append(Work(flops, _bytes_of(computation, i), times, name=origin(i)))

    def _read_conditional(self, i: Instruction, times: int) -> None:
        names = re.findall(r"%([\w.\-]+)", i.attribute("branch_computations") or "")
        names = names or [str(i.called(f"{side}_computation")) for side in ("true", "false")]
        branches = []
        for name in names:
            branch = _Reader(self.module)
            branch.read(self.module.computations[name], times)
            branches.append(branch)
        # One of them runs; the dearest stands for all.
        dearest = max(branches, key=lambda b: sum((w.flops + w.bytes) * w.times for w in b.work))
        self.work += dearest.work
        self.collectives += dearest.collectives

    def _read_fusion(
        self, computation: Computation, i: Instruction, times: int, channels: set[str]
    ) -> None:
        fused = self.module.computations[str(i.called("calls"))]
        flops = 0.0
        for inner, instruction in _walk(self.module, fused):
            flops += matrix_flops(inner, instruction)
            if instruction.opcode in COLLECTIVES:
                kind, channel = instruction.opcode, instruction.attribute("channel_id")
                if channel in channels:
                    continue
                if channel is not None:
                    channels.add(channel)
                if kind == "all-reduce" and inner.name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                self._add_collective(kind, inner, instruction, times)
        moved = _fusion_bytes(computation, i, fused)
        self.work.append(Work(flops, moved, times, name=origin(i)))

    def _add_collective(self, kind: str, computation: Computation, i: Instruction, times: int):
        group = exchanging_group(i, self.module.num_partitions)
        operand = sum(a.bytes for operand in computation.shapes(i) for a in operand)
        n = len(group)
        share = {"all-reduce": 2 * (n - 1) / n, "all-gather": n - 1.0}.get(kind, (n - 1) / n)
        if kind == "collective-permute":
            share = 1.0
        if n > 1:
            self.collectives.append(Collective(kind, share * operand, group, times))


def _walk(module: Module, computation: Computation) -> Iterator[tuple[Computation, Instruction]]:
    """The instructions of a fused computation, those of fusions within it too."""
    for instruction in computation.instructions:
        yield computation, instruction
        if instruction.opcode == "fusion":
            yield from _walk(module, module.computations[str(instruction.called("calls"))])


def origin(i: Instruction) -> str:
    """Where in the network an instruction comes from, as the program tells; may be empty."""
    found = re.search(r'op_name="([^"]*)"', i.attributes)
    return found.group(1) if found else ""


def _memory(arrays: Sequence[Array]) -> float:
    return sum(a.bytes for a in arrays if a.in_memory)


def _bytes_of(computation: Computation, i: Instruction) -> float:
    operands = computation.shapes(i)
    if i.opcode in _SLICES:
        # Of what is sliced only the slice is read.
        return (2 if operands and _memory(operands[0]) else 1) * _memory(i.result)
    if i.opcode == "dynamic-update-slice":
        return 2 * sum(a.bytes for a in operands[1]) if _memory(i.result) else 0.0
    if i.opcode == "custom-call" and "AllocateBuffer" in i.attributes:
        return 0.0
    return _memory(i.result) + sum(_memory(operand) for operand in operands)


def _moved_beside(computation: Computation, i: Instruction) -> float:
    """Bytes of a `copy-start` or `slice-start`; its result is `(to, from, …)` or the reverse."""
    operand = [a for shapes in computation.shapes(i) for a in shapes]
    whole = max((a.bytes for a in operand), default=0.0)
    data = [a for a in i.result if a.dims and a.bytes <= whole]
    moved = min((a.bytes for a in data), default=0.0)
    sides = sum(any(a.in_memory is side for a in data) for side in (True, False))
    # Between two places in main memory, every byte is read there and written there.
    only_main = sides == 1 and all(a.in_memory for a in data)
    return 2 * moved if only_main else moved


def _fusion_bytes(computation: Computation, i: Instruction, fused: Computation) -> float:
    users: dict[str, list[Instruction]] = collections.defaultdict(list)
    for instruction in fused.instructions:
        for operand in instruction.operands:
            users[operand].append(instruction)
    parameters = {int(p.literal): p.name for p in fused.instructions if p.opcode == "parameter"}
    root = next((x for x in reversed(fused.instructions) if x.is_root), fused.instructions[-1])
    total = 0.0
    for number, arrays in enumerate(computation.shapes(i)):
        if _memory(arrays):
            parts = _parts_read(parameters.get(number, ""), users)
            total += _memory(arrays) if parts is None else min(parts, _memory(arrays))
    while root.opcode in _VIEWS and root.operands and root.operands[0] in fused.by_name:
        root = fused.by_name[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and _memory(i.result):
        # In place: the update alone is written.
        return total + sum(a.bytes for a in fused.shapes(root)[1])
    if _only_carries(root):
        return total
    if root.opcode == "tuple" and len(root.operands) == len(i.result):
        made = [fused.by_name[name] for name in root.operands]
        written = [a for a, x in zip(i.result, made, strict=True) if not _only_carries(x)]
        return total + _memory(written)
    return total + _memory(i.result)


def _only_carries(i: Instruction) -> bool:
    """Whether what `i` gives was there before, or comes over the links."""
    return (
        i.opcode in ("parameter", "get-tuple-element")
        or i.opcode in COLLECTIVES
        or (i.opcode == "custom-call" and "AsyncCollective" in i.attributes)
    )


def _parts_read(name: str, users: dict[str, list[Instruction]]) -> float | None:
    """Bytes read of a fusion's parameter that is only sliced; None when it is read whole."""
    total = 0.0
    for user in users[name]:
        if user.opcode in _SLICES and user.operands[0] == name:
            total += sum(a.bytes for a in user.result)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode == "tuple" or _only_carries(user):
            continue
        elif user.opcode == "bitcast":
            inner = _parts_read(user.name, users)
            if inner is None:
                return None
            total += inner
        else:
            return None
    return total


def matrix_flops(computation: Computation, i: Instruction) -> float:
    """Operations of a `dot`, of a `convolution` (what a TPU makes of it), or of a kernel."""
    if i.opcode == "dot":
        left = computation.shapes(i)[0][0]
        contracted = re.findall(r"\d+", i.attribute("lhs_contracting_dims") or "")
        return 2.0 * i.result[0].size * math.prod(left.dims[int(d)] for d in contracted)
    if i.opcode == "convolution":
        return _convolution_flops(computation, i)
    if i.opcode == "custom-call":
        # A kernel's own count, which it gives to the compiler.
        told = re.search(r'"cost_estimate":\{"flops":"(\d+)"', i.attributes)
        return float(told.group(1)) if told else 0.0
    return 0.0


def _convolution_flops(computation: Computation, i: Instruction) -> float:
    (left, *_), (right, *_) = computation.shapes(i)[:2]
    labels = re.match(r"(\w+)_(\w+)->(\w+)", i.attribute("dim_labels") or "")
    if labels is None:
        return 0.0
    lhs, rhs, out = labels.groups()
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (i.attribute("window") or "").strip("{}")))
    spatial = sorted(c for c in out if c.isdigit())

    def field(name: str, default: str, position: int) -> str:
        return window[name].split("x")[position] if name in window else default

    products = 1.0
    for position, c in enumerate(spatial):
        low, _, _ = field("pad", "0_0", position).partition("_")
        products *= _overlaps(
            left.dims[lhs.index(c)],
            right.dims[rhs.index(c)],
            i.result[0].dims[out.index(c)],
            int(field("stride", "1", position)),
            int(low),
            int(field("lhs_dilate", "1", position)),
            int(field("rhs_dilate", "1", position)),
        )
    batch = i.result[0].dims[out.index("b")] / int(i.attribute("batch_group_count") or 1)
    return (
        2.0
        * products
        * batch
        * i.result[0].dims[out.index("f")]
        # Already that of one feature group.
        * right.dims[rhs.index("i")]
    )


@functools.cache
def _overlaps(
    size: int, kernel: int, out: int, stride: int, low: int, dilation: int, kernel_dilation: int
) -> int:
    """Pairs of an output position and a kernel position that meet an input element."""
    place = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * kernel_dilation - low
    return int(((place >= 0) & (place % dilation == 0) & (place // dilation < size)).sum())


def _trip_count(module: Module, loop: Instruction) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known.group(1))
    condition = module.computations[str(loop.called("condition"))]
    instructions = [i for _, i in _walk(module, condition)]
    compares = any(
        i.opcode == "compare" and i.attribute("direction") in ("LT", "GT", "NE")
        for i in instructions
    )
    bounds = [
        int(i.literal)
        for i in instructions
        if i.opcode == "constant" and re.fullmatch(r"-?\d+", i.literal) and i.result[0].dims == ()
    ]
    return max(bounds) if compares and bounds and max(bounds) > 0 else 1
