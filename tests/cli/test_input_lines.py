"""What `dpt predict` takes for a line, and what it says of one that it cannot take."""

import gzip
import json

import pytest

from dpt_jax.cli import input_lines
from dpt_jax.errors import InputError


def read(data):
    return list(input_lines.read(data.splitlines(keepends=True)))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_told_apart_whatever_editor_wrote_them(mark, end):
    rows = ['{"inputs": "Ä 1", "id": 7}', '  {"inputs": "b", "prompt": "rte"}', "plain {text}", ""]
    first, second, third, fourth = read((mark + end.join([*rows, ""])).encode())
    assert (first.inputs, first.prompt, first.record) == ("Ä 1", None, {"inputs": "Ä 1", "id": 7})
    assert (second.inputs, second.prompt) == ("b", "rte")
    assert (third.inputs, third.record) == ("plain {text}", None)
    assert (fourth.number, fourth.inputs) == (4, "")


def test_an_answer_has_the_form_of_its_line():
    line, text = read(b'{"inputs": "a", "score": NaN, "output": "old"}\na\n')
    assert json.loads(line.answered("ä")) == {"inputs": "a", "score": None, "output": "ä"}
    assert "ä" in line.answered("ä")
    assert text.answered("ä") == "ä"
    # ByT5 can generate line breaks; as many lines come out as went in.
    assert text.answered("a\nb\r\nc\rd\u2028e") == "a b c d e"
    assert json.loads(line.answered("a\nb"))["output"] == "a\nb"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"ball \xff\xfe 1", "Line 2 is not UTF-8: byte 0xff at its place 6"),
        (b'{"inputs": ', "Line 2 starts with a brace but is not JSON"),
        (b'{"inputs": ' + b"[" * 100_000, "Line 2 starts with a brace but is not JSON"),
        (b'{"inputs": "a", "n": ' + b"9" * 5000 + b"}", "Line 2 starts with a brace"),
        (b'{"text": "a"}', "Line 2 has no text \"inputs\"; it has ['text']"),
        (b'{"inputs": 5}', 'Line 2: "inputs" is 5; it must be a text'),
        (b'{"inputs": null}', 'Line 2: "inputs" is None; it must be a text'),
        (b'{"inputs": "a", "prompt": ["b"]}', "Line 2: \"prompt\" is ['b']; it must be the name"),
        (b'{"inputs": "\\ud800"}', "Line 2 has half of a surrogate pair"),
    ],
)
def test_a_line_that_cannot_be_answered_is_named(line, message):
    with pytest.raises(InputError) as error:
        read(b"good\n" + line + b"\n")
    assert message in str(error.value)
    assert len(str(error.value)) < 300


def test_a_compressed_input_is_named():
    with pytest.raises(InputError, match=r"compressed \(gzip\)"):
        read(gzip.compress(b"abc\n"))
