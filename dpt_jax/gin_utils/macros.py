"""Gin's macros: which are ours, which are set or used, and what is wrong with them."""

import difflib
import logging
from collections.abc import Iterable, Set
from typing import Any

import gin

from dpt_jax.errors import InputError, nearest_names
from dpt_jax.gin_utils.retired import GONE

# A typing error in one of them must not pass in silence.
MACROS = (
    "ATTENTION AUGMENTATION BALANCED_BATCHES BATCH_SIZE BEST_METRIC BOTTLENECK CLASS_LABELS "
    "CLIP_NORM DATA DRAW_SEED DROPOUT_RATE DTYPE EARLY_STOPPING_PATIENCE EMBED_DIM EPOCHS "
    "EVAL_BATCH_SIZE EVAL_PERIOD FINE_TUNE FROZEN_DTYPE IMAGE_MEAN IMAGE_STD "
    "INITIAL_CHECKPOINT_PATH LEARNING_RATE LEARNING_RATE_PEAK MESH MICROBATCHES "
    "MIXTURE_OR_TASK_MODULE MIXTURE_OR_TASK_NAME MODEL MODEL_DIR NUM_BUCKETS OPTIMIZER "
    "OVERLENGTH PERCENT PREFIX PREFIX_FILE PREFIX_LAYERS PREFIX_LENGTH PREFIX_STACKS PROMPT "
    "PROMPT_DROPOUT PROMPT_FILE PROMPT_LENGTH PROMPT_PLACEMENT RANDOM_SEED REMAT_POLICY RESIZE "
    "SCORING SHARED_A SHOTS TASK_FEATURE_LENGTHS TRAIN_STEPS"
).split()
"""The names of the macros that our gin files know."""

# The files that set a macro which has no value without them.
_A_MODEL = " or add a models/*.gin file"
_ADDED_BY = {
    "EMBED_DIM": _A_MODEL,
    "MODEL": _A_MODEL,
    "PROMPT": " or add a prompts/*.gin or prefixes/*.gin file",
}
# Of a prompt or a prefix; some methods lack some of them.
_OF_A_METHOD = ("BOTTLENECK", "PREFIX_LAYERS", "PREFIX_LENGTH", "PREFIX_STACKS", "PROMPT_LENGTH")


def set_macros() -> dict[str, Any]:
    """The values of the macros that files and flags set."""
    # Gin keeps `NAME = value` as the argument `value` of a macro with the scope NAME, and has no
    # public way to list these.
    return {
        scope: arguments.get("value")
        for (scope, selector), arguments in gin.config._CONFIG.items()
        if selector == "gin.macro"
    }


def _is_required(value: Any) -> bool:
    # `%gin.REQUIRED` is kept as a reference to a constant of that name.
    reference = isinstance(value, gin.config.ConfigurableReference)
    return reference and value.scoped_selector.startswith("gin.REQUIRED/")


def used_macros() -> set[str]:
    """The macros that something in the parsed configuration uses."""
    return {
        reference.scoped_selector.split("/")[0]
        for reference in gin.config.iterate_references(gin.config._CONFIG)
        if reference.selector == "gin.macro"
    }


def unused_macros() -> list[str]:
    """The macros that are set, that nothing uses, and that are none of ours."""
    return [name for name in set_macros() if name not in {*used_macros(), *MACROS}]


def check_unused_macros() -> None:
    """Refuses a macro that nothing uses where its name is much like one that means something.

    Gin itself takes what is written there for a new macro, and so does T5X, whose users may have
    some in their files that their run does not need. Those are named in the log.

    Raises:
      InputError: for a mistyped macro.
    """
    known = used_macros() | set(MACROS)
    for name in unused_macros():
        if meant := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise InputError(
                f"The gin macro {name} is set, but nothing uses it. {meant[0]} is meant? Change "
                f"--gin.{name}, or the gin file that sets it."
            )
        logging.warning("The gin macro %s is set, but nothing uses it.", name)


def leave_out_what_is_not_named(prompt_too: bool = False) -> None:
    """Without a prefix file there is no prefix, and with one there may be no prompt.

    Args:
      prompt_too: there may be no prompt in any case.
    """
    bound = set_macros()
    if "PREFIX" not in bound and "PREFIX" in used_macros():
        gin.parse_config("PREFIX = None")
    elif bound.get("PREFIX") is not None and "PROMPT" not in bound:
        prompt_too = True
    if prompt_too and "PROMPT" not in bound:
        gin.parse_config("PROMPT = None")


def check_flags(gin_bindings: Iterable[str], used: Set[str] | None = None) -> None:
    """Refuses a macro of the command line that the parsed configuration does not use.

    A gin file may set more of our macros than a run needs, as a recipe does; who writes a flag
    means something by it. One command line may compare methods, as do the points of a sweep, so
    that a size or place which only some of them have is named in the log.

    Args:
      gin_bindings: of `--gin.NAME=VALUE`.
      used: the macros in use, where not those of the parsed configuration.

    Raises:
      InputError: for a macro that is not in use.
    """
    used = used_macros() if used is None else used
    for binding in gin_bindings:
        name = binding.partition("=")[0].strip()
        if not name.isidentifier() or name in used:
            continue
        message = f"--gin.{name} is set, but nothing in this run uses it."
        if name not in _OF_A_METHOD:
            raise InputError(
                f"{message}{nearest_names(name, used)} Leave it out, or add the gin file that "
                "uses it (docs/settings.md has the macros)."
            )
        logging.warning("%s", message)


def check_macros() -> None:
    """Refuses a configuration whose macros do not fit.

    Raises:
      InputError: for a macro that is gone, that nothing uses, or that had to be set and is not.
    """
    bound, used = set_macros(), used_macros()
    for name in bound.keys() & GONE.keys():
        raise InputError(
            f"The gin macro {name} is set to {bound[name]!r}, but it is gone: {GONE[name]}, and "
            f"remove {name}."
        )
    for name in unused_macros():
        raise InputError(
            f"The gin macro {name} is set, but nothing uses it."
            f"{nearest_names(name, used | {*MACROS})}"
        )
    unset = sorted(name for name in used if name not in bound)
    if unset:
        raise InputError(
            f"The gin macro {unset[0]} is used, but not set. Set --gin.{unset[0]}=VALUE"
            f"{_ADDED_BY.get(unset[0], '')}."
        )
    required = sorted(name for name, value in bound.items() if _is_required(value))
    if required:
        flags = " ".join(f"--gin.{name}=VALUE" for name in required)
        raise InputError(f"Required gin macros are not set: {', '.join(required)}. Add {flags}.")
