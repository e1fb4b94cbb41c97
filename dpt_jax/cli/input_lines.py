"""The lines that `dpt predict` answers: text, or JSON objects with their text in "inputs"."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dpt_jax.errors import InputError

_UTF8_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the input.

    Attributes:
      number: its place in the whole input, from 1.
      inputs: the text to answer.
      prompt: the name of the prompt to answer with; None where the line names none.
      record: the JSON object; None for a line of text.
    """

    number: int
    inputs: str
    prompt: str | None = None
    record: Mapping[str, Any] | None = None

    def answered(self, output: str) -> str:
        """The answer in the line's own form: text, or the object with "output" added.

        A line break in a text becomes a space, so that it stays one line.
        """
        if self.record is None:
            return " ".join(output.splitlines())
        from dpt_jax.files import json_dumps

        return json_dumps({**self.record, "output": output}, ensure_ascii=False)


def read(lines: Iterable[bytes]) -> Iterator[Line]:
    """Reads lines of UTF-8, with or without a byte order mark.

    Raises:
      InputError: for a line that is not UTF-8, or an object that cannot be answered, with its
        number.
    """
    for number, line in enumerate(lines, 1):
        if number == 1:
            if line.startswith(_GZIP):
                raise InputError("The input is compressed (gzip); unpack it first, as by gunzip.")
            line = line.removeprefix(_UTF8_MARK)
        yield _parse(number, _decode(number, line.rstrip(b"\r\n")))


def _decode(number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as e:
        raise InputError(
            f"Line {number} is not UTF-8: byte 0x{line[e.start]:02x} at its place {e.start + 1}. "
            "Convert the input, as by: iconv -f LATIN1 -t UTF-8."
        ) from e


def _parse(number: int, text: str) -> Line:
    if not text.lstrip().startswith("{"):
        return Line(number, text)
    try:
        record = json.loads(text)
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise InputError(f"Line {number} has half of a surrogate pair, which is no text.") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"Line {number} starts with a brace but is not JSON: {e}.") from e
    if "inputs" not in record:
        raise InputError(f'Line {number} has no text "inputs"; it has {sorted(record)}.')
    for name, wanted in (("inputs", "a text"), ("prompt", "the name of a prompt")):
        value = record.get(name)
        if not isinstance(value, str) and (name == "inputs" or value is not None):
            raise InputError(f'Line {number}: "{name}" is {value!r}; it must be {wanted}.')
    return Line(number, record["inputs"], record.get("prompt"), record)
