"""The SeqIO tasks and mixtures, and their registration."""

import re
from collections.abc import Callable
from typing import Any

import gin
import seqio

from dpt_jax.tasks import metrics, postprocessors, preprocessors
from dpt_jax.tasks.benchmark import BENCHMARKS
from dpt_jax.tasks.errors import TaskError
from dpt_jax.tasks.few_shot_draw import Share, Shots
from dpt_jax.tasks.sources import SuperGlueSource
from dpt_jax.tasks.vocabulary import FEATURES

# Registered on import; `few_shot` and `share` register any other.
FEW_SHOT_K = (8, 16, 32)
FEW_SHOT_SEEDS = (0, 1, 2)

# Raffel et al. (2020), section 3.5.2: the limit K of examples-proportional mixing, at the value
# that did best there. No SuperGLUE task reaches it.
MIXING_CAP = 2**19

_SUFFIX = {preprocessors.CANONICAL: "", preprocessors.DIGITS: "_digits"}
_DRAWN_NAME = re.compile(r"(.+)_([kp])(\d+)_s(\d+)")

# Task name: short name of the benchmark's task, and the text format.
TASKS: dict[str, tuple[str, str]] = {
    f"dpt_{name}{_SUFFIX[text_format]}": (name, text_format)
    for text_format in preprocessors.FORMATS
    for name in BENCHMARKS
}


def _scoring(name: str, text_format: str) -> tuple[Callable[..., Any], list[Callable[..., Any]]]:
    """The postprocessor and the metrics of a task."""
    words = preprocessors.words(BENCHMARKS[name], text_format)
    if name == "multirc":
        grouped = postprocessors.grouped_class_of(words)
        return grouped, [metrics.answer_options_f1, metrics.question_exact_match]
    if name == "record":
        return postprocessors.answer, [metrics.best_answer]
    if name == "wsc":
        return postprocessors.is_noun, [metrics.accuracy]
    scores: list[Callable[..., Any]] = [metrics.accuracy]
    if name == "cb":
        scores.append(metrics.mean_class_f1(len(words)))
    return postprocessors.class_of(words), scores


def _add_task(task: str, name: str, text_format: str, shots: Shots | Share | None = None) -> None:
    if task in seqio.TaskRegistry.names():
        return
    postprocess_fn, metric_fns = _scoring(name, text_format)
    seqio.TaskRegistry.add(
        task,
        source=SuperGlueSource(BENCHMARKS[name], shots),
        preprocessors=preprocessors.pipeline(name, text_format),
        postprocess_fn=postprocess_fn,
        metric_fns=metric_fns,
        output_features=FEATURES,
    )


@gin.configurable(module="dpt_jax.tasks.registry")
def examples_proportional(task: seqio.Task, maximum: int = MIXING_CAP) -> float:
    """A task's rate in a mixture: its number of training examples, at most `maximum`.

    For the official data these are the rates of T5's own SuperGLUE mixture.

    Args:
      task: one of ours.
      maximum: T5's limit K, in examples.
    """
    return float(min(task.source.num_train_examples(), maximum))


def register() -> None:
    """Registers tasks, few-shot tasks and mixtures; what is registered already stays."""
    for task, (name, text_format) in TASKS.items():
        _add_task(task, name, text_format)
        for k in FEW_SHOT_K:
            for seed in FEW_SHOT_SEEDS:
                few_shot(task, k, seed)
    for text_format, suffix in _SUFFIX.items():
        tasks = [task for task, (_, its_format) in TASKS.items() if its_format == text_format]
        for mixture, rate in (("superglue", examples_proportional), ("superglue_equal", 1.0)):
            if f"dpt_{mixture}{suffix}" not in seqio.MixtureRegistry.names():
                seqio.MixtureRegistry.add(f"dpt_{mixture}{suffix}", tasks, default_rate=rate)


def few_shot(task: str, k: int, seed: int) -> str:
    """Registers the task with `k` drawn training examples, and returns its name.

    The examples are the same for every method, text format and machine. A ReCoRD query gives one
    example, with the first of its answers. Validation and test stay complete.

    Args:
      task: one of `TASKS`, such as `dpt_rte`.
      k: how many training examples.
      seed: which draw.

    Returns:
      `<task>_k<k>_s<seed>`.

    Raises:
      TaskError: when there is no such task, or `k` or `seed` is no such number.
    """
    return _add_drawn(task, Shots(k, seed))


def share(task: str, percent: int, seed: int) -> str:
    """Registers the task with a share of its training examples, and returns its name.

    As `few_shot`, but `percent` of the rows that are not held out; the split `heldout` of both has
    the tenth of the training rows that no draw of the seed takes.

    Returns:
      `<task>_p<percent>_s<seed>`.

    Raises:
      TaskError: when there is no such task, or `percent` or `seed` is no such number.
    """
    return _add_drawn(task, Share(percent, seed))


def _add_drawn(task: str, shots: Shots | Share) -> str:
    if task not in TASKS:
        raise TaskError(f"There are no few-shot tasks of {task!r}, but of {', '.join(TASKS)}.")
    name = f"{task}_{shots}"
    _add_task(name, *TASKS[task], shots)
    return name


def register_by_name(name: str) -> None:
    """Registers `name` if it is that of a drawn task, of any amount and seed; else does nothing."""
    match = _DRAWN_NAME.fullmatch(name)
    if match and match[1] in TASKS:
        task, unit, amount, seed = match[1], match[2], int(match[3]), int(match[4])
        if f"{task}_{unit}{amount}_s{seed}" == name:
            (few_shot if unit == "k" else share)(task, amount, seed)


def few_shot_ids(task: str) -> list[list[int]] | None:
    """The ids of the training rows of a few-shot task, sorted; None for every other task.

    An id is the benchmark's `idx`: one number, MultiRC's paragraph, question and answer, or
    ReCoRD's passage and query.

    Raises:
      TaskError: when the rows cannot be read, or are fewer than k.
    """
    if task not in seqio.TaskRegistry.names():
        return None
    source = seqio.TaskRegistry.get(task).source
    if not isinstance(source, SuperGlueSource) or source.shots is None:
        return None
    return source.few_shot_ids()
