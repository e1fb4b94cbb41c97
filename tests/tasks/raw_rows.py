"""Hand-made SuperGLUE: every schema of the official download, a few rows per split."""

import copy
import json
import pathlib
from collections.abc import Mapping
from typing import Any

Line = dict[str, Any]

FOLDERS = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "rte": "RTE",
    "wic": "WiC",
    "wsc": "WSC",
}
FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}


def lines(name: str, split: str) -> list[Line]:
    """The JSON objects of a split; test has no labels and no answers."""
    made = [copy.deepcopy(line) for line in _LINES[name](split)]
    if split == "test":
        for line in made:
            line.pop("label", None)
            for question in (
                line.get("passage", {}).get("questions", ()) if name == "multirc" else ()
            ):
                for answer in question["answers"]:
                    del answer["label"]
            for query in line.get("qas", ()):
                del query["answers"]
    return made


def write(
    folder: pathlib.Path, changed: Mapping[tuple[str, str], list[Line]] | None = None
) -> None:
    """Writes all tasks and splits below `folder`; `changed` replaces the lines of some."""
    for name, subfolder in FOLDERS.items():
        for split, file in FILES.items():
            write_file(
                folder / subfolder / file, (changed or {}).get((name, split)) or lines(name, split)
            )


def write_file(path: pathlib.Path, rows: list[Line]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _boolq(split):
    for i in range(6):
        yield {
            "question": f"is {split} {i} a number — or “text”",
            "passage": f"Number {i} -- It’s   spaced\toddly, with a\nnewline. ",
            "idx": i,
            "label": i % 3 == 0,
        }


def _cb(split):
    for i, label in enumerate(("entailment", "contradiction", "neutral", "neutral")):
        yield {
            "premise": f"A: I think {split} {i}. B: Uh-huh.",
            "hypothesis": f"{split} {i}",
            "label": label,
            "idx": i,
        }


def _copa(split):
    for i in range(5):
        yield {
            "premise": f"The man {i} turned on the faucet.",
            "choice1": "The toilet filled with water.",
            "choice2": "Water flowed from the spout.",
            "question": ("effect", "cause")[i % 2],
            "label": i % 2,
            "idx": i,
        }


def _multirc(split):
    for i in range(3):
        yield {
            "idx": i,
            "version": 1.1,
            "passage": {
                "text": f"<b>Sent 1: </b>{split} {i} began.<br><b>Sent 2: </b>It ended.",
                "questions": [
                    {
                        "question": f"What began in {i}, {j}?",
                        "idx": 2 * i + j,
                        "answers": [
                            {"text": f"answer {k}", "idx": 10 * i + 3 * j + k, "label": int(k == 1)}
                            for k in range(2 + j)
                        ],
                    }
                    for j in range(2)
                ],
            },
        }


def _record(split):
    text = 'Ann Lee met Bo in Rome. "Ciao!"\n@highlight\nBo liked Rome\n@highlight\nAnn left.'
    spans = [(0, 6), (12, 13), (18, 21), (43, 44), (68, 70)]
    for i in range(3):
        yield {
            "source": "hand",
            "idx": i,
            "passage": {
                "text": text,
                "entities": [{"start": start, "end": end} for start, end in spans],
            },
            "qas": [
                {
                    "query": f"@placeholder was there, {split} {i} {j}.",
                    "idx": 5 * i + j,
                    "answers": [
                        {"start": 12, "end": 13, "text": "Bo"},
                        {"start": 43, "end": 44, "text": "Bo"},
                        {"start": 0, "end": 6, "text": "Ann Lee"},
                    ][: 1 + 2 * j],
                }
                for j in range(2)
            ],
        }


def _rte(split):
    for i in range(30 if split == "train" else 4):
        yield {
            "premise": f"No weapons {i} of {split} were found.",
            "hypothesis": f"Weapons {i} were found.",
            "label": ("entailment", "not_entailment")[i % 2],
            "idx": i,
        }


def _wic(split):
    for i in range(4):
        yield {
            "word": "bed",
            "sentence1": f"There's a lot of trash on the bed of the river {i}.",
            "sentence2": "I keep a glass of water next to my bed when I sleep.",
            "idx": i,
            "label": bool(i % 2),
            "start1": 30,
            "start2": 36,
            "end1": 33,
            "end2": 39,
            "version": 1.1,
        }


def _wsc(split):
    def row(idx, text, noun, at, pronoun, index, label):
        target = {"span1_text": noun, "span1_index": at, "span2_text": pronoun}
        return {"text": text, "target": target | {"span2_index": index}, "idx": idx, "label": label}

    lent = "Mitchell asked Tom if he could lend some money."
    yield row(0, lent, "Mitchell", 0, "he", 4, False)
    yield row(1, lent, "Tom", 2, "he", 4, True)
    # The noun's case is not the text's, and the pronoun has punctuation behind it.
    yield row(2, 'They left the dog . "Poor him," she said. ', "The dog", 2, "him", 6, True)
    yield row(3, 'They left the dog. "Poor him," she said.', "They", 0, "him", 5, False)
    if split == "train":
        yield row(4, "Ann saw Eve , and X waved to her .", "Eve.", 2, "her", 8, True)


_LINES = {
    "boolq": _boolq,
    "cb": _cb,
    "copa": _copa,
    "multirc": _multirc,
    "record": _record,
    "rte": _rte,
    "wic": _wic,
    "wsc": _wsc,
}
