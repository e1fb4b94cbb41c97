"""SuperGLUE's official jsonl files as rows with TFDS's fields, in TFDS's order.

Lines may also be those of Hugging Face's `datasets`: flat rows, and numbers for labels.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from dpt_jax.tasks import wsc
from dpt_jax.tasks.benchmark import FALSE_TRUE, INTEGER, SPLITS, TEXT, Benchmark
from dpt_jax.tasks.errors import TaskError

FILES = dict(zip(SPLITS, ("train.jsonl", "val.jsonl", "test.jsonl"), strict=True))

Row = dict[str, Any]


class Fields:
    """A JSON object of a line, whose fields are asked for with the type that they must have."""

    def __init__(self, value: Any, where: str, path: str = ""):
        self._where, self._path = where, path
        if not isinstance(value, dict):
            raise self.wrong(f"{self._what(None)} is {_short(value)}; it must be an object")
        self._value = value

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def get(self, name: str) -> Any:
        """The value of a field, None where it is not there."""
        return self._value.get(name)

    def _what(self, name: str | None) -> str:
        path = ".".join(part for part in (self._path, name) if part)
        return f"field {path!r}" if path else "the line"

    def wrong(self, what: str) -> TaskError:
        """The error to raise: file and line number, and what is wrong there."""
        return TaskError(f"{self._where}: {what}.")

    def wrong_value(self, name: str, wanted: str) -> TaskError:
        """The error to raise for a field's value."""
        value = _short(self._value[name])
        return self.wrong(f"{self._what(name)} is {value}; it must be {wanted}")

    def any(self, name: str) -> Any:
        """The value of a field that must be there."""
        if name not in self._value:
            has = ", ".join(map(repr, self._value)) or "none"
            raise self.wrong(f"{self._what(name)} is missing; there are {has}")
        return self._value[name]

    def text(self, name: str) -> str:
        """A text that UTF-8 can hold."""
        value = self.any(name)
        return self._checked(name, value)

    def _checked(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.wrong_value(name, "a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.wrong_value(name, "a text without half surrogates") from None
        return value

    def integer(self, name: str) -> int:
        """An integer of 32 bits."""
        value = self.any(name)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**31:
            raise self.wrong_value(name, "an integer")
        return value

    def object(self, name: str) -> "Fields":
        """A nested object."""
        return Fields(self.any(name), self._where, self._path + "." * bool(self._path) + name)

    def objects(self, name: str) -> "list[Fields]":
        """A list of objects."""
        values = self.any(name)
        if not isinstance(values, list):
            raise self.wrong_value(name, "a list")
        path = self._path + "." * bool(self._path) + name
        return [Fields(v, self._where, f"{path}[{i}]") for i, v in enumerate(values)]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        values = self.any(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.wrong_value(name, "a list of texts")
        return [self._checked(name, value) for value in values]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else text[:77] + "..."


def split_file(benchmark: Benchmark, folder: str, split: str) -> pathlib.Path:
    """The file of a split below the folder of raw SuperGLUE.

    Raises:
      TaskError: when it is not there.
    """
    root = pathlib.Path(folder).expanduser()
    path = root / benchmark.folder / FILES[split]
    if path.is_file():
        return path
    advice = "set DPT_SUPERGLUE_DIR, or its gin binding, to SuperGLUE's unpacked download"
    if not root.is_dir():
        raise TaskError(f"Looked for {path}: there is no folder {root}; {advice}.")
    if not path.parent.is_dir():
        found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "no folder"
        raise TaskError(
            f"Looked for {path}: {root} has no folder {benchmark.folder!r} but {found}; {advice}."
        )
    found = ", ".join(sorted(p.name for p in path.parent.iterdir())) or "nothing"
    raise TaskError(f"Looked for {path}: {path.parent} holds {found}; {advice}.")


def read(benchmark: Benchmark, folder: str, split: str) -> list[Row]:
    """Reads a split.

    Args:
      benchmark: which of the eight.
      folder: the folder of raw SuperGLUE.
      split: `train`, `validation` or `test`.

    Returns:
      Rows with the fields of `benchmark.fields`, `idx` (a list of integers) and, where there are
      classes, `label` (-1 where the test split keeps it secret), in the order in which TFDS keeps
      them: by a hash of their ids.

    Raises:
      TaskError: for a file that is not there, and for a line that cannot be used, with its number.
    """
    path = split_file(benchmark, folder, split)
    lines: dict[bytes, int] = {}
    keyed: list[tuple[bytes, Row]] = []
    # TFDS's own shuffle: md5 of the split's name and the example's key (its `core.hashing`).
    salt = hashlib.md5(split.encode(), usedforsecurity=False)
    for number, fields in _lines(path):
        for key, row in _PARSE[benchmark.name](benchmark, fields, split):
            digest = salt.copy()
            digest.update(key.encode())
            order = digest.digest()
            if order in lines:
                ids = " ".join(f"{k} {v}" for k, v in zip(benchmark.ids, row["idx"], strict=True))
                raise fields.wrong(f"{ids} is also on line {lines[order]}")
            lines[order] = number
            keyed.append((order, row))
    keyed.sort(key=lambda pair: pair[0])
    return [row for _, row in keyed]


def count(benchmark: Benchmark, path: pathlib.Path) -> int | None:
    """Rows of a file, without a look at their fields; None where a line is of another kind."""
    rows = 0
    try:
        with open(path, "rb") as f:
            for line in filter(bytes.strip, f):
                rows += _rows_of(benchmark, line)
    except (ValueError, KeyError, TypeError):
        return None
    return rows


def _rows_of(benchmark: Benchmark, line: bytes) -> int:
    if benchmark.name not in ("multirc", "record"):
        return 1
    value = json.loads(line)
    if benchmark.name == "record":
        return 1 if "query" in value else len(value["qas"])
    if "paragraph" in value:
        return 1
    return sum(len(question["answers"]) for question in value["passage"]["questions"])


def _lines(path: pathlib.Path) -> Iterator[tuple[int, Fields]]:
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except UnicodeDecodeError as e:
                raise TaskError(f"{where}: not UTF-8 ({e}).") from e
            except ValueError as e:
                raise TaskError(f"{where}: not JSON ({e}).") from e
            yield number, Fields(value, where)


def _label(benchmark: Benchmark, fields: Fields, split: str) -> int:
    """The label as an index of `benchmark.classes`, however it is written.

    The official download names the classes, or has booleans or 0 and 1; Hugging Face's `datasets`
    writes the index, and -1 where the official test split has none.
    """
    if split == "test" and fields.get("label") in (None, -1):
        return -1
    value, classes = fields.any("label"), benchmark.classes
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    unnamed = benchmark.name in ("copa", "multirc") or classes == FALSE_TRUE
    if isinstance(value, int) and (unnamed or not isinstance(value, bool)):
        if 0 <= value < len(classes):
            return int(value)
    if unnamed:
        raise fields.wrong_value("label", f"0 or 1, false or true ({' or '.join(classes)})")
    names = ", ".join(f"{name} ({i})" for i, name in enumerate(classes))
    raise fields.wrong_value("label", f"one of {names}")


Parsed = Iterator[tuple[str, Row]]


def _flat(benchmark: Benchmark, fields: Fields, split: str) -> Parsed:
    row: Row = {}
    for name, kind in benchmark.fields.items():
        row[name] = fields.text(name) if kind == TEXT else fields.integer(name)
    idx = fields.integer("idx")
    yield str(idx), row | {"idx": [idx], "label": _label(benchmark, fields, split)}


def _multirc(benchmark: Benchmark, fields: Fields, split: str) -> Parsed:
    if "paragraph" in fields:
        yield from _flat_multirc(benchmark, fields, split)
        return
    passage = fields.object("passage")
    for question in passage.objects("questions"):
        for answer in question.objects("answers"):
            idx = [part.integer("idx") for part in (fields, question, answer)]
            yield (
                "_".join(map(str, idx)),
                {
                    "paragraph": passage.text("text"),
                    "question": question.text("question"),
                    "answer": answer.text("text"),
                    "idx": idx,
                    "label": _label(benchmark, answer, split),
                },
            )


def _flat_multirc(benchmark: Benchmark, fields: Fields, split: str) -> Parsed:
    """An answer option a line, as `datasets` writes it."""
    ids = fields.object("idx")
    idx = [ids.integer(name) for name in benchmark.ids]
    row: Row = {name: fields.text(name) for name in benchmark.fields}
    yield "_".join(map(str, idx)), row | {"idx": idx, "label": _label(benchmark, fields, split)}


def _flat_record(benchmark: Benchmark, fields: Fields, split: str) -> Parsed:
    """A query a line, as `datasets` writes it."""
    ids = fields.object("idx")
    idx = [ids.integer(name) for name in benchmark.ids]
    answers = fields.texts("answers")
    if split == "validation" and not answers:
        raise fields.wrong_value("answers", "a list with an answer")
    row: Row = {name: fields.text(name) for name in ("passage", "query")}
    entities = sorted(set(fields.texts("entities")))
    yield (
        str(idx[-1]),
        row | {"entities": entities, "answers": sorted(set(answers)), "idx": idx},
    )


def _record(benchmark: Benchmark, fields: Fields, split: str) -> Parsed:
    if "query" in fields:
        yield from _flat_record(benchmark, fields, split)
        return
    passage = fields.object("passage")
    text = passage.text("text")
    entities = set()
    for entity in passage.objects("entities"):
        start, end = entity.integer("start"), entity.integer("end")
        if not 0 <= start <= end < len(text):
            raise entity.wrong_value("start", f"a place in the passage, up to `end` = {end}")
        entities.add(text[start : end + 1])
    for query in fields.objects("qas"):
        # Training can do without a query that has no answer; what is to be scored cannot.
        known = "answers" in query or split == "validation"
        answers = {a.text("text") for a in query.objects("answers")} if known else set()
        if split == "validation" and not answers:
            raise query.wrong_value("answers", "a list with an answer")
        idx = [fields.integer("idx"), query.integer("idx")]
        yield (
            str(idx[-1]),
            {
                "passage": text,
                "query": query.text("query"),
                "entities": sorted(entities),
                "answers": sorted(answers),
                "idx": idx,
            },
        )


def _wsc(benchmark: Benchmark, fields: Fields, split: str) -> Parsed:
    # `datasets` writes the spans beside the text.
    text, target = fields.text("text"), fields.object("target") if "target" in fields else fields
    row: Row = {"text": text}
    for name, kind in benchmark.fields.items():
        if name != "text":
            row[name] = target.integer(name) if kind == INTEGER else target.text(name)
    for span in ("span1", "span2"):
        name, index = row[f"{span}_text"], row[f"{span}_index"]
        try:
            row[f"{span}_text"] = wsc.fixed_span(text, name, index)
        except ValueError as e:
            raise target.wrong_value(f"{span}_text", f"at word {index}, but {e}") from None
    # Two rows of the official test split have a noun that stands elsewhere.
    noun, index = row["span1_text"], row["span1_index"]
    if split != "test" and not wsc.stands_at(text, noun, index):
        raise target.wrong_value("span1_index", f"where {noun!r} stands in {text!r}")
    pronoun, index = row["span2_text"], row["span2_index"]
    if wsc.pronoun_index(text, pronoun, index) is None:
        raise target.wrong_value("span2_index", f"where {pronoun!r} stands in {text!r}")
    idx = fields.integer("idx")
    yield str(idx), row | {"idx": [idx], "label": _label(benchmark, fields, split)}


_PARSE: dict[str, Callable[[Benchmark, Fields, str], Parsed]] = {
    **dict.fromkeys(("boolq", "cb", "copa", "rte", "wic"), _flat),
    "multirc": _multirc,
    "record": _record,
    "wsc": _wsc,
}
