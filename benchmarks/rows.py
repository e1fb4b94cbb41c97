"""Rows of real lengths: a file's, few-shot SuperGLUE's as T5 text, or generated ones."""

import json
import pathlib
import random
from collections.abc import Iterator

import numpy as np

# Beside a checkout, not part of it.
_SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
_FEWGLUE = _SHARED / "fewglue"
_VOCABULARY = _SHARED / "t5_vocab" / "sentencepiece.model"

# Mean source lengths in T5's tokens of real SuperGLUE rows, and how many rows a task has here.
_MEAN_LENGTHS = {
    "BoolQ": (178, 32),
    "CB": (101, 32),
    "COPA": (37, 32),
    "MultiRC": (371, 128),
    "RTE": (80, 32),
    "ReCoRD": (329, 70),
    "WSC": (45, 32),
    "WiC": (35, 32),
}

TokenRow = tuple[np.ndarray, np.ndarray]


def load(rows: str | None, vocabulary: str | None) -> tuple[str, list[TokenRow]]:
    """Rows as `(source tokens, target tokens)`, with where they come from.

    Args:
      rows: a jsonl file of objects with `inputs` and `targets`; None takes what is there.
      vocabulary: a SentencePiece model; needed with `rows`.
    """
    if rows is not None:
        lines = pathlib.Path(rows).read_text().splitlines()
        texts = [(row["inputs"], row["targets"]) for row in map(json.loads, lines)]
        return rows, _tokenize(texts, vocabulary)
    if _FEWGLUE.exists() and _VOCABULARY.exists():
        return "FewGLUE as T5 text", _tokenize(list(fewglue_texts()), str(_VOCABULARY))
    return "generated with SuperGLUE's lengths", generated()


def generated(seed: int = 0) -> list[TokenRow]:
    """Random tokens of T5's vocabulary with the lengths of real SuperGLUE rows."""
    rng = np.random.default_rng(seed)
    rows = []
    for mean, count in _MEAN_LENGTHS.values():
        # A log-normal spread of 0.35 is about that of the real ones within a task.
        lengths = mean * rng.lognormal(-(0.35**2) / 2, 0.35, count)
        for length in np.clip(lengths, 8, 650).astype(int):
            source = rng.integers(2, 32000, length - 1)
            target = rng.integers(2, 32000, int(rng.integers(1, 8)))
            rows.append((np.append(source, 1), np.append(target, 1)))
    return rows


def _tokenize(texts: list[tuple[str, str]], vocabulary: str | None) -> list[TokenRow]:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=vocabulary)

    def tokens(text):
        return np.asarray([*model.encode(text), 1])

    return [(tokens(inputs), tokens(targets)) for inputs, targets in texts]


def fewglue_texts() -> Iterator[tuple[str, str]]:
    """`(inputs, targets)` of all rows, in the manner of Raffel et al. (2020, appendix D)."""
    for task in sorted(_MEAN_LENGTHS):
        for line in (_FEWGLUE / task / "train.jsonl").read_text().splitlines():
            yield from _TO_TEXT[task](json.loads(line))


def _pair(name: str, *fields: str):
    def to_text(row):
        parts = " ".join(f"{field}: {row[field]}" for field in fields)
        yield f"{name} {parts}", str(row["label"])

    return to_text


def _copa(row):
    choices = f"choice1: {row['choice1']} choice2: {row['choice2']}"
    text = f"copa {choices} premise: {row['premise']} question: {row['question']}"
    yield text, "choice2" if row["label"] else "choice1"


def _multirc(row):
    for question in row["passage"]["questions"]:
        for answer in question["answers"]:
            text = (
                f"multirc question: {question['question']} answer: {answer['text']} "
                f"paragraph: {row['passage']['text']}"
            )
            yield text, str(bool(answer["label"]))


def _record(row):
    passage = row["passage"]
    entities = sorted({passage["text"][e["start"] : e["end"] + 1] for e in passage["entities"]})
    text = passage["text"].replace("\n@highlight\n", ". ")
    for query in row["qas"]:
        inputs = f"record query: {query['query']} entities: {', '.join(entities)} passage: {text}"
        yield inputs, query["answers"][0]["text"]


def _wsc(row):
    target = row["target"]
    words = row["text"].split(" ")
    words[target["span2_index"]] = f"*{words[target['span2_index']]}*"
    yield f"wsc: {' '.join(words)}", target["span1_text"]


_TO_TEXT = {
    "BoolQ": _pair("boolq", "question", "passage"),
    "CB": _pair("cb", "hypothesis", "premise"),
    "COPA": _copa,
    "MultiRC": _multirc,
    "RTE": _pair("rte", "premise", "hypothesis"),
    "ReCoRD": _record,
    "WSC": _wsc,
    "WiC": _pair("wic", "sentence1", "sentence2", "word"),
}


def shuffled(rows: list[TokenRow], seed: int = 0) -> list[TokenRow]:
    """The rows in random order."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows
