"""What a `PromptedT5` is asked, checked: texts, candidates, and the prompt of each text."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dpt_jax.data.examples import enforce_lengths
from dpt_jax.data.kept_vocabulary import KeptVocabulary
from dpt_jax.data.pairs import read_texts
from dpt_jax.data.text_tasks import tokenize
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.interop.adapters import Adapter
from dpt_jax.models import T5Config
from dpt_jax.problems.continued import PromptLike, load
from dpt_jax.problems.text import Prepared


def tokens_of(texts: Sequence[str], prepared: Prepared) -> list[np.ndarray]:
    """The int32 token ids of texts, end token included.

    Raises:
      InputError: when some are longer than the prepared T5 takes.
    """
    config = prepared.config
    rows = [{"inputs": x} for x in tokenize(prepared.vocabulary, texts)]
    # Dropped rows would have no answer.
    overlength = "error" if config.overlength == "drop" else config.overlength
    short = enforce_lengths(
        rows,
        {"inputs": config.task_feature_lengths["inputs"]},
        overlength,
        what="texts",
        limit="max_source_length",
        remedy="Give from_pretrained a larger max_source_length, or overlength='truncate'.",
    )
    return [row["inputs"] for row in short]


def adapters_of(
    count: int,
    prompts: Mapping[str, PromptLike | None],
    names: Iterable[str] | None,
    model: T5Config,
) -> list[Adapter]:
    """Which of several prompts each of `count` texts has.

    Raises:
      InputError: for a prompt of another model, a name that none has, or another count of names.
    """
    if not isinstance(prompts, Mapping):
        raise InputError(f"prompts is {prompts!r}; it takes prompts by name, as {{'rte': 'rte'}}.")
    loaded = {
        name: Adapter() if prompt is None else load(prompt, model, f"prompts[{name!r}]")
        for name, prompt in prompts.items()
    }
    if names is None and len(loaded) == 1:
        names = list(loaded) * count
    if isinstance(names, str) or not isinstance(names, Iterable | None):
        raise InputError(f"names is {names!r}; it takes a list of names of prompts.")
    each = [] if names is None else list(names)
    if len(each) != count:
        raise InputError(
            f"There are {count} texts and {len(loaded)} prompts, so names= takes one of "
            f"{', '.join(loaded) or 'no prompts'} for each text, but there are "
            f"{len(each) or 'none'}."
        )
    for row, name in enumerate(each):
        if not isinstance(name, Hashable) or name not in loaded:
            raise InputError(
                f"Row {row} names the prompt {name!r}; there are {', '.join(loaded)}."
                f"{nearest_names(str(name), loaded)} Add it to prompts=."
            )
    return [loaded[name] for name in each]


def candidates_of(
    count: int,
    candidates: Iterable[str] | Iterable[Iterable[str]],
    vocabulary: KeptVocabulary,
) -> list[list[np.ndarray]]:
    """The token ids of the candidates of each of `count` texts.

    Raises:
      InputError: for a text without candidates, or another count of lists.
    """
    if isinstance(candidates, str) or not isinstance(candidates, Iterable):
        raise InputError(f"candidates is {candidates!r}; it takes a list of texts.")
    given: list[Any] = list(candidates)
    if all(isinstance(text, str) for text in given):
        each = [read_texts(given, "candidates")] * count
    elif len(given) == count:
        each = [read_texts(row, f"candidates[{number}]") for number, row in enumerate(given)]
    else:
        raise InputError(
            f"There are {count} texts, but candidates for {len(given)}. Give one list of "
            "candidates for all texts, or one list for each."
        )
    for number, row in enumerate(each):
        if not row:
            raise InputError(f"Row {number} of candidates is empty; give at least one.")
    return [tokenize(vocabulary, row) for row in each]
