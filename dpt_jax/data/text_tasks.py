"""Tasks that are texts: read, tokenized and scored without SeqIO and TensorFlow.

The module that `MIXTURE_OR_TASK_MODULE` names lists them as `TEXT_TASKS`:

    def rows(split):
        for line in open(f"{split}.jsonl"):
            row = json.loads(line)
            yield {"inputs": row["question"], "targets": row["answer"]}

    TEXT_TASKS = [TextTask("my_task", rows)]

It is looked for in the module's text before anything is imported, so that it has to stand there.
"""

import dataclasses
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dpt_jax.data.kept_vocabulary import KeptVocabulary
from dpt_jax.errors import InputError

Row = Mapping[str, Any]
_LIST = "TEXT_TASKS"
_LISTS_TASKS = re.compile(rf"^{_LIST}\b", re.MULTILINE)


class TextFeature(NamedTuple):
    """What `output_features` of a SeqIO task has for a feature, as far as it is asked for."""

    vocabulary: KeptVocabulary
    add_eos: bool = True


def as_it_is(text: str, **unused_kwargs: Any) -> str:
    """The postprocessor that takes an answer for what it says."""
    return text


@dataclasses.dataclass(frozen=True)
class TextTask:
    """A task whose rows are texts.

    The tokens are those of SeqIO's `tokenize` and `append_eos`.

    Attributes:
      name: what `MIXTURE_OR_TASK_NAME` says.
      rows: gives a split's rows, in the same order each time: mappings with the texts `inputs` and
        `targets`. For `SCORING = "rank"` they also have `candidates`, the texts to choose from.
        Whatever else they have is handed to `postprocess_fn`. A ValueError or an OSError says what
        is wrong with the data.
      splits: the names that `rows` takes.
      vocabulary: the model's; None opens that of its folder, `INITIAL_CHECKPOINT_PATH`.
      metric: "exact_match", "token_f1", or a function of `(targets, predictions)`.
      postprocess_fn: SeqIO's, `(text, example=row, is_target=bool)`; makes what the metric takes of
        a target or an answer.
    """

    name: str
    rows: Callable[[str], Iterable[Row]]
    splits: Sequence[str] = ("train", "validation")
    vocabulary: KeptVocabulary | None = None
    metric: str | Callable[..., Any] = "exact_match"
    postprocess_fn: Callable[..., Any] = as_it_is

    @property
    def parts(self) -> list[tuple["TextTask", float]]:
        """The task and its rate, as a mixture has them of many."""
        return [(self, 1.0)]

    @property
    def output_features(self) -> dict[str, TextFeature]:
        """`inputs` and `targets`, as a SeqIO task has them; asks for a vocabulary."""
        assert self.vocabulary is not None  # See `with_vocabulary`.
        return dict.fromkeys(("inputs", "targets"), TextFeature(self.vocabulary))

    def with_vocabulary(self, open_one: Callable[[], KeptVocabulary]) -> "TextTask":
        """The task with a vocabulary: its own, or else the one that is opened."""
        if self.vocabulary is not None:
            return self
        return dataclasses.replace(self, vocabulary=open_one())

    def read(self, split: str, most: int | None = None) -> list[dict[str, Any]]:
        """Reads and tokenizes a split, in order.

        Args:
          split: one of its splits.
          most: how many rows are read at most; None reads all.

        Returns:
          Rows with int32 tokens as `inputs` and `targets`, and `<feature>_pretokenized`, the texts.

        Raises:
          InputError: for what `rows` refuses, and a row without the two texts, with its number
            from 0.
        """
        vocabulary = self.output_features["inputs"].vocabulary
        try:
            given = list(itertools.islice(self.rows(split), most))
        except (ValueError, OSError) as e:
            raise InputError(f"Split {split!r} of task {self.name!r}: {e}") from e
        rows = [self._checked(row, f"Row {i} of split {split!r}") for i, row in enumerate(given)]
        for feature in self.output_features:
            tokens = tokenize(vocabulary, (row[feature] for row in rows))
            for row, ids in zip(rows, tokens, strict=True):
                row |= {feature: ids, f"{feature}_pretokenized": row[feature]}
        return rows

    def _checked(self, row: Any, where: str) -> dict[str, Any]:
        """A copy of the row; raises InputError where it lacks one of the two texts."""
        found = dict(row) if isinstance(row, Mapping) else {}
        for feature in self.output_features:
            if not isinstance(found.get(feature), str):
                raise InputError(
                    f"{where} of task {self.name!r} has no text {feature!r}, but is {row!r}."
                )
            if not is_whole(found[feature]):
                raise InputError(f"{where} of task {self.name!r} {HALF} in {feature!r}.")
        return found


@dataclasses.dataclass(frozen=True)
class TextMixture:
    """Several text tasks that are trained on together.

    Attributes:
      name: what `MIXTURE_OR_TASK_NAME` says.
      tasks: the tasks, of one vocabulary.
      rates: how often each is drawn from, relative to the others.
    """

    name: str
    tasks: Sequence[TextTask]
    rates: Sequence[float]

    def __post_init__(self):
        if len({id(task.vocabulary) for task in self.tasks}) != 1:
            raise ValueError(f"The tasks of {self.name!r} must have one vocabulary.")
        if len(self.rates) != len(self.tasks):
            raise ValueError(
                f"{self.name!r} has {len(self.tasks)} tasks and {len(self.rates)} rates."
            )

    @property
    def parts(self) -> list[tuple[TextTask, float]]:
        """Every task and its rate."""
        return list(zip(self.tasks, self.rates, strict=True))

    @property
    def output_features(self) -> dict[str, TextFeature]:
        """Those of its tasks."""
        return self.tasks[0].output_features

    def with_vocabulary(self, open_one: Callable[[], KeptVocabulary]) -> "TextMixture":
        """The mixture of the tasks with a vocabulary."""
        if self.tasks[0].vocabulary is not None:
            return self
        opened = open_one()
        return dataclasses.replace(
            self, tasks=[task.with_vocabulary(lambda: opened) for task in self.tasks]
        )


# What is said of a text that is not `is_whole`.
HALF = "has half of a surrogate pair, which is no character,"


def is_whole(text: str) -> bool:
    """Whether a text can be written at all: half of a surrogate pair, as JSON may hold, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tokenize(vocabulary: KeptVocabulary, texts: Iterable[str]) -> list[np.ndarray]:
    """The int32 token ids of texts, the end token included."""
    return [np.asarray([*vocabulary.encode(x), vocabulary.eos_id], np.int32) for x in texts]


def lists_text_tasks(module: str) -> bool:
    """Whether a module's text says that it has text tasks; it is not imported for that."""
    try:
        spec = importlib.util.find_spec(module)
        source = None if spec is None else spec.loader.get_source(module)  # type: ignore[union-attr]
    except (ImportError, AttributeError, ValueError):
        return False  # Importing it says what is wrong.
    return bool(_LISTS_TASKS.search(source or ""))


def listed(module: Any) -> Sequence[TextTask | TextMixture]:
    """The text tasks and mixtures of an imported module."""
    return getattr(module, _LIST, ())


def find(module: Any, name: str) -> TextTask | TextMixture | None:
    """The text task or mixture of that name in an imported module; None where it has none."""
    return next((one for one in listed(module) if one.name == name), None)
