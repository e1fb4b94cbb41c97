"""What a generated answer means, for SeqIO: the class it names, the answer, or the noun it matches.

As T5's library has them. Targets come from the example, so that a metric sees the benchmark's
labels whatever a target's text is.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dpt_jax.tasks.metrics import normalized_answer, same_noun

INVALID = -1


def class_of(words: tuple[str, ...]) -> Callable[..., int]:
    """Returns the postprocessor of a task with classes.

    It gives the index of the class that a text names, spelled exactly so, and -1 for any other
    text; for targets, the example's `label`.
    """

    def postprocess(text: str, example: Any = None, is_target: bool = False) -> int:
        if is_target:
            return int(example["label"])
        return words.index(text) if text in words else INVALID

    return postprocess


def grouped_class_of(words: tuple[str, ...]) -> Callable[..., dict[str, Any]]:
    """`class_of` with the question that an answer option belongs to, as MultiRC's metrics need.

    Targets are `{"value": label, "group": (paragraph, question)}`, outputs `{"value": class}`.
    """
    plain = class_of(words)

    def postprocess(text: str, example: Any = None, is_target: bool = False) -> dict[str, Any]:
        value: dict[str, Any] = {"value": plain(text, example, is_target)}
        if is_target:
            value["group"] = _ids(example)[:2]
        return value

    return postprocess


def answer(text: str, example: Any = None, is_target: bool = False) -> dict[str, Any]:
    """ReCoRD's answers.

    Targets are `{"value": all answers, "group": (passage, query)}`, outputs
    `{"value": text, "valid": whether it is one of the passage's entities}`, compared as SQuAD does.
    """
    if is_target:
        return {"value": _texts(example["answers"]), "group": _ids(example)}
    entities = {normalized_answer(entity) for entity in _texts(example["candidates"])}
    return {"value": text, "valid": normalized_answer(text) in entities}


def is_noun(text: str, example: Any = None, is_target: bool = False) -> int:
    """WSC's label: whether the answer is the noun that the row asks about (`same_noun`).

    Outputs are 1, 0, or -1 where nothing but determiners was said; targets the example's `label`.
    """
    if is_target:
        return int(example["label"])
    same = same_noun(text, _texts([example["targets_pretokenized"]])[0])
    return INVALID if same is None else int(same)


def _texts(values: Any) -> list[str]:
    return [
        v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(values, object).tolist()
    ]


def _ids(example: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.atleast_1d(example["idx"]))
