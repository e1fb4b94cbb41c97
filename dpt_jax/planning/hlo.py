"""The text of a compiled program (XLA's HLO) as data: computations, instructions, array shapes."""

import dataclasses
import functools
import math
import re

# Bits of an element; types that are not data, such as tokens, have none.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
# Memory spaces of layouts: none is the device's main memory, S(1) on a TPU its fast one.
_SPACE = re.compile(r"S\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Array:
    """Type of an array: `dims`, and `in_memory`, whether it lives in the device's main memory."""

    dtype: str
    dims: tuple[int, ...]
    in_memory: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes of the elements, padding not counted."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            digits = re.match(r"[a-z]+(\d+)", self.dtype)
            bits = int(digits.group(1)) if digits else 0
        return self.size * bits / 8


@dataclasses.dataclass
class Instruction:
    """One line of a computation."""

    name: str
    result: list[Array]
    opcode: str
    operands: list[str]
    attributes: str
    literal: str
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """The value of `name=...`, up to the next comma outside of braces and brackets."""
        start = re.search(rf"\b{name}=", self.attributes)
        return None if start is None else _balanced(self.attributes[start.end() :], ",")[0]

    def called(self, name: str) -> str | None:
        """The computation that `name=%...` names."""
        value = self.attribute(name)
        return None if value is None else value.lstrip("%")


@dataclasses.dataclass
class Computation:
    """A named list of instructions, in the order in which they were scheduled."""

    name: str
    instructions: list[Instruction]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        """The instructions by name."""
        return {i.name: i for i in self.instructions}

    def shapes(self, instruction: Instruction) -> list[list[Array]]:
        """What each operand of `instruction` is made of."""
        return [self.by_name[name].result for name in instruction.operands if name in self.by_name]


@dataclasses.dataclass
class Module:
    """A program."""

    computations: dict[str, Computation]
    entry: Computation
    num_partitions: int


def _balanced(text: str, end: str) -> tuple[str, str]:
    """Splits at the first of the characters `end` that stands outside of all brackets."""
    depth = 0
    for i, character in enumerate(text):
        if depth == 0 and character in end:
            return text[:i], text[i:]
        if character in "({[":
            depth += 1
        elif character in ")}]":
            depth -= 1
    return text, ""


def _arrays(text: str) -> list[Array]:
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(n.lstrip("<=")) for n in dims.split(",") if n)
        arrays.append(Array(dtype, sizes, space is None or space.group(1) == "0"))
    return arrays


def parse(text: str) -> Module:
    """Reads the text of `compiled.as_text()`.

    Raises:
      ValueError: when it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if not line.startswith(" "):
            header = _HEADER.match(line)
            if header:
                current = Computation(header.group(2), [])
                computations[current.name] = current
                entry = current if header.group(1) else entry
            continue
        found = _INSTRUCTION.match(line)
        if found is None or current is None:
            continue
        root, name, rest = found.groups()
        # A type ends at the first space outside of its brackets.
        kind, rest = _balanced(rest, " ")
        opcode = _OPCODE.match(rest)
        if opcode is None:
            continue
        inside, after = _balanced(rest[opcode.end() :], ")")
        current.instructions.append(
            Instruction(
                name,
                _arrays(kind),
                opcode.group(1),
                _NAME.findall(inside),
                after[1:],
                inside,
                root is not None,
            )
        )
    if entry is None:
        raise ValueError("This is not the text of a compiled program: it has no ENTRY.")
    partitions = re.search(r"num_partitions=(\d+)", text[:200_000])
    return Module(computations, entry, int(partitions.group(1)) if partitions else 1)
