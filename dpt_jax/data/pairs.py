"""Pairs of texts, as a notebook has them: checked, and tokenized into examples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpt_jax.data.examples import TaskExamples, enforce_lengths
from dpt_jax.data.kept_vocabulary import KeptVocabulary
from dpt_jax.data.text_tasks import HALF, is_whole, tokenize
from dpt_jax.errors import InputError

# How examples that are no SeqIO task's are called, in logs and files.
NAME = "pairs"
Pairs = Sequence[tuple[str, str]]


def read_pairs(rows: Iterable[Any], columns: Sequence[str], what: str = "pairs") -> Pairs:
    """Takes whatever holds two texts a row.

    Args:
      rows: any iterable of `(input, target)`, or of mappings with two named columns, such as rows
        of Hugging Face's `datasets`; or a pandas frame with these columns.
      columns: the names of the input's and the target's column.
      what: what the rows are called in messages.

    Returns:
      `(input, target)` for every row.

    Raises:
      InputError: when a row is no such pair, with its number from 0, or there is no row.
    """
    if len(columns) != 2 or isinstance(columns, str):
        raise InputError(
            f"columns is {columns!r}; it takes two names, of the input and of the target."
        )
    frame: Any = rows
    if hasattr(frame, "columns") and hasattr(frame, "iloc"):
        # It iterates over the names of its columns.
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise InputError(
                f"{what} is a frame without the column {missing[0]!r}; it has "
                f"{', '.join(map(str, frame.columns))}. Name the two with columns=."
            )
        rows = zip(*(frame[name] for name in columns), strict=True)
    elif isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise InputError(
            f"{what} is a {type(rows).__name__}; it takes a list, or another iterable, of "
            "(input, target)."
        )
    pairs = [_pair(row, number, columns, what) for number, row in enumerate(rows)]
    if not pairs:
        raise InputError(f"{what} is empty; give at least one (input, target).")
    return pairs


def _pair(row: Any, number: int, columns: Sequence[str], what: str) -> tuple[str, str]:
    if isinstance(row, Mapping):
        missing = [name for name in columns if name not in row]
        if missing:
            raise InputError(
                f"Row {number} of {what} has no {missing[0]!r}; it has "
                f"{', '.join(map(str, row))}. Name its two columns with columns=."
            )
        row = tuple(row[name] for name in columns)
    if not isinstance(row, tuple | list) or len(row) != 2:
        raise InputError(f"Row {number} of {what} is no (input, target), but {_shown(row)}.")
    for name, text in zip(("input", "target"), row, strict=True):
        if not isinstance(text, str):
            raise InputError(
                f"The {name} of row {number} of {what} is no text, but {_shown(text)}."
            )
        if not is_whole(text):
            raise InputError(f"Row {number} of {what} {HALF} in its {name}: {_shown(text)}.")
    return row[0], row[1]


def _shown(value: Any) -> str:
    shown = repr(value)
    return f"{shown if len(shown) < 60 else shown[:57] + '...'} ({type(value).__name__})"


def read_texts(texts: Iterable[str], what: str = "texts") -> list[str]:
    """Takes texts, called `what` in messages; raises InputError for what is none, with its row."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"{what} is {_shown(texts)}; it takes a list of texts.")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"Row {number} of {what} is no text, but {_shown(text)}.")
        if not is_whole(text):
            raise InputError(f"Row {number} of {what} {HALF} in it: {_shown(text)}.")
    return found


def examples_of(
    pairs: Pairs,
    vocabulary: KeptVocabulary,
    lengths: Mapping[str, int],
    overlength: str,
    what: str = "pairs",
) -> TaskExamples:
    """Tokenizes pairs, as SeqIO's `tokenize` and `append_eos` do.

    Args:
      pairs: texts.
      vocabulary: the model's.
      lengths: the most tokens of `inputs` and `targets`, end token included.
      overlength: "error", "truncate" or "drop".
      what: what the pairs are called in messages.

    Raises:
      InputError: when texts are too long, or none is left.
    """
    inputs, targets = (tokenize(vocabulary, texts) for texts in zip(*pairs, strict=True))
    rows: list[dict[str, Any]] = [
        {"inputs": x, "targets": y, "inputs_pretokenized": a, "targets_pretokenized": b}
        for x, y, (a, b) in zip(inputs, targets, pairs, strict=True)
    ]
    rows = enforce_lengths(
        rows,
        lengths,
        overlength,
        what=f"rows of {what}",
        limit="the limits in tokens",
        remedy="Set max_source_length or max_target_length to more, or "
        "overlength='truncate' (or 'drop') to do without.",
    )
    if not rows:
        raise InputError(f"No row of {what} is short enough. Set max_source_length to more.")
    return TaskExamples(
        NAME, [row["inputs"] for row in rows], [row["targets"] for row in rows], rows
    )
