"""Tasks and mixtures, SeqIO's and those of texts: found and checked before anything is read."""

import importlib
import re
import sys
from collections.abc import Iterable
from typing import Any

from dpt_jax.data import reading, text_tasks
from dpt_jax.errors import MODULES_ARE_FOUND, InputError, nearest_names
from dpt_jax.quiet_import import quiet_import

# The name of a task with a draw of another's training rows: so many (k), or so many percent (p).
DRAWN = re.compile(r"(?P<task>.+)_(?P<unit>[kp])(?P<amount>\d+)_s(?P<seed>\d+)")


def import_seqio() -> Any:
    """Imports SeqIO, and with it TensorFlow."""
    return quiet_import("seqio")


def imported_seqio() -> Any:
    """SeqIO where something has imported it, and None where nothing can be one of its objects."""
    return sys.modules.get("seqio")


def import_tasks(module: str, flag: str = "--gin.MIXTURE_OR_TASK_MODULE") -> Any:
    """Imports the module that registers tasks, or lists text tasks; `flag` is what named it.

    Raises:
      InputError: when it cannot be imported, or refuses its own settings with a ValueError.
    """
    if not text_tasks.lists_text_tasks(module):
        import_seqio()  # Before the module does, and without what it prints.
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise InputError(
            f"Cannot import {module!r} ({e}). {MODULES_ARE_FOUND}; or change {flag}."
        ) from e
    except ValueError as e:
        raise InputError(f"Importing {module!r}: {e}") from e


def get_provider(
    name: str,
    module: str | None = None,
    remedy: str = "Change --gin.MIXTURE_OR_TASK_NAME, or name the module that registers it with "
    "--gin.MIXTURE_OR_TASK_MODULE.",
) -> Any:
    """Returns the task or mixture `name`, after importing `module`.

    Of a module with text tasks and SeqIO tasks, the text task has the name where both have it.

    Raises:
      InputError: when the module cannot be imported or the name is not registered.
    """
    imported = import_tasks(module) if module else None
    if (found := text_tasks.find(imported, name)) is not None:
        return found
    seqio = import_seqio()
    if tasks := _superglue():
        try:
            tasks.register_by_name(name)
        except ValueError as e:
            raise InputError(f"{name}: {e} {remedy}") from e
    try:
        return seqio.get_mixture_or_task(name)
    except ValueError as e:
        registered = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
        known = sorted(registered.union(one.name for one in text_tasks.listed(imported)))
        whole = ", ".join(one for one in known if not DRAWN.fullmatch(one))
        listed = nearest_names(name, known) or f" Registered: {whole or 'none'}."
        raise InputError(f"There is no task or mixture {name!r}.{listed} {remedy}") from e


def parts(provider: Any) -> list[tuple[Any, float]]:
    """The tasks of a provider, and the rate of each where it is a mixture."""
    if isinstance(provider, text_tasks.TextTask | text_tasks.TextMixture):
        return provider.parts
    seqio = import_seqio()
    mixed = isinstance(provider, seqio.Mixture)
    return [
        (task, provider.get_rate(task) if mixed else 1.0) for task in seqio.get_subtasks(provider)
    ]


def _superglue() -> Any:
    """`dpt_jax.tasks`, where something has imported it."""
    return sys.modules.get("dpt_jax.tasks")


def few_shot_ids(tasks: Iterable[str]) -> dict[str, list[list[int]]]:
    """The ids of the training examples of those tasks that are few-shot tasks of ours."""
    superglue = _superglue()
    if superglue is None:
        return {}
    drawn = {task: superglue.few_shot_ids(task) for task in tasks}
    return {task: ids for task, ids in drawn.items() if ids is not None}


def get_vocabulary(provider: Any) -> Any:
    """The vocabulary of the provider's inputs and targets, which must be one."""
    features = provider.output_features
    missing = {"inputs", "targets"} - set(features)
    if missing:
        raise InputError(
            f"{provider.name!r} has no feature {sorted(missing)}; an encoder-decoder needs "
            f"'inputs' and 'targets', it has {sorted(features)}."
        )
    if features["inputs"].vocabulary != features["targets"].vocabulary:
        raise InputError(f"{provider.name!r} uses two vocabularies; T5 has one.")
    vocabulary = features["inputs"].vocabulary
    try:
        _ = vocabulary.vocab_size  # Its file is read when it is first needed.
    except Exception as e:
        message = f"{reading.message(e).removesuffix('.')}."
        if "DPT_VOCAB" in message:  # One of our tasks', which says it all.
            raise InputError(f"{provider.name}: {message}") from e
        raise InputError(
            f"The vocabulary of {provider.name!r} cannot be read: {message} Set "
            "--gin.VOCABULARY (or DPT_VOCAB) to the "
            "model's SentencePiece file, where the task reads it."
        ) from e
    return vocabulary


def check_split(task: Any, split: str) -> None:
    """Raises InputError when the task has no such split."""
    if split not in task.splits:
        raise InputError(
            f"Task {task.name!r} has no split {split!r}; it has {', '.join(task.splits)}."
            f"{nearest_names(split, task.splits)}"
        )
