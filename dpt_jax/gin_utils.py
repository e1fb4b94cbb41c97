"""Reading gin files and `--gin.NAME=VALUE` bindings, with errors that name what to change."""

import contextlib
import difflib
import functools
import inspect
import io
import logging
import pathlib
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, TypeVar

import gin
from gin.resource_reader import system_path_file_exists as _gin_in_package

from dpt_jax import gin_text
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.paths import as_path, in_bucket
from dpt_jax.run_files import CONFIG

# The macros that our gin files know; a typing error in one of them must not pass in silence.
MACROS = (
    "BATCH_SIZE BEST_METRIC BOTTLENECK CLASS_LABELS CLIP_NORM DROPOUT_RATE DTYPE "
    "EARLY_STOPPING_PATIENCE EMBED_DIM EPOCHS EVAL_BATCH_SIZE EVAL_PERIOD FROZEN_DTYPE "
    "INITIAL_CHECKPOINT_PATH LEARNING_RATE LEARNING_RATE_PEAK MESH MICROBATCHES "
    "MIXTURE_OR_TASK_MODULE MIXTURE_OR_TASK_NAME MODEL MODEL_DIR NUM_BUCKETS OPTIMIZER "
    "OVERLENGTH PREFIX PREFIX_FILE PREFIX_LAYERS PREFIX_LENGTH PREFIX_STACKS PROMPT PROMPT_FILE "
    "PROMPT_LENGTH RANDOM_SEED REMAT_POLICY SCORING TASK_FEATURE_LENGTHS TRAIN_STEPS"
).split()

# What earlier versions had, and what to do instead.
_GONE = {
    "CONVERTED_CHECKPOINT_CACHE": "`dpt convert` makes a converted copy of a pretrained T5; set "
    "INITIAL_CHECKPOINT_PATH to the copy",
}

# Lines that earlier versions wrote into a run's config.gin or read in a user's file, as regular
# expressions, and what they are read as now. Every gin file passes through this table, included
# ones too. An entry may go when no run of such a version is worth reading any more.
_RETIRED = (
    # Sweeps are a package of their own.
    (r"^from dpt_jax\.analysis import sweeps\b", "from dpt_jax import sweeps"),
    # `dpt convert` took the cache's place; a folder that is still set is refused: see `_GONE`.
    (r"^.*\bconverted_checkpoint_cache *= *(None|%\w+) *$\n?", ""),
    (r"^CONVERTED_CHECKPOINT_CACHE *= *None *$\n?", ""),
    # Initializers take arrays; they took a path and a function that reads it.
    (
        r"^(\S*)\binitializers\.(from_file\.path|truncated_svd\.prompt) = (?!@)",
        r"from dpt_jax import interop\n"
        r"\1initializers.\2 = @interop.PromptFile()\n"
        r"\1interop.PromptFile.path = ",
    ),
    (r"\binitializers\.from_file\.path\b", "initializers.from_prompt.prompt"),
    (r"\binitializers\.from_file\b", "initializers.from_prompt"),
    (
        r"^(\S*)\binitializers\.from_factors\.path = ",
        r"\1initializers.from_factors.factors = @interop.FactorsFile()\n"
        r"\1interop.FactorsFile.path = ",
    ),
    (r"^\S*\binitializers\.\w+\.read = @\S*_reader\(\)\n", ""),
    (r"^(\S*)\binterop\.prompt_reader\.flag\b", r"\1interop.PromptFile.flag"),
    (r"^(\S*)\binterop\.factors_reader\.flag\b", r"\1interop.FactorsFile.flag"),
)

T = TypeVar("T")


def gin_configs() -> pathlib.Path:
    """The folder of the gin files that come with the package."""
    return pathlib.Path(str(resources.files("dpt_jax.gin_configs")))


def parse(
    gin_files: Sequence[str],
    gin_bindings: Sequence[str] = (),
    gin_search_paths: Sequence[str] = (),
    of_run: bool = False,
) -> None:
    """Parses gin files and bindings into gin's global configuration, replacing what is there.

    Files are looked for in the working directory, then in `gin_search_paths`, then among the
    package's own, as in `runs/prompt_train.gin`.

    Args:
      gin_files: files, later ones override earlier ones.
      gin_bindings: bindings such as `BATCH_SIZE = 32`, which override all files.
      gin_search_paths: further folders to look in.
      of_run: a `RunConfig` is to be built of them, so that one of the files has to say how.

    Raises:
      InputError: for a file, name or parameter that does not exist, a value that cannot be parsed,
        a macro that nothing uses, or one that had to be set and is not; and for a run without a
        run file.
    """
    folders = ["", *gin_search_paths, str(gin_configs())]
    if any(_imports_tasks(file, folders) for file in gin_files):
        _import_seqio()
    _parse_files(gin_files, gin_search_paths)
    for binding in gin_bindings:
        _parse_binding(binding)
    if of_run and not any(
        selector.endswith(".RunConfig") and "model" in arguments
        for (_, selector), arguments in gin.config._CONFIG.items()
    ):
        raise InputError(
            f"{_files_named(gin_files)} no run file, which gives a run its model, prompt and task. "
            f"{_ADD_RUN_FILE}, before the others."
        )
    _leave_out_what_is_not_named()
    _check_macros()


def _leave_out_what_is_not_named() -> None:
    """Without a prefix file there is no prefix, and with one there may be no prompt."""
    bound = _macro_bindings()
    if "PREFIX" not in bound and "PREFIX" in used_macros():
        gin.parse_config("PREFIX = None")
    elif bound.get("PREFIX") is not None and "PROMPT" not in bound:
        gin.parse_config("PROMPT = None")


_ADD_RUN_FILE = "Add --gin_file=runs/prompt_train.gin"


def _files_named(gin_files: Sequence[str]) -> str:
    if len(gin_files) == 1:
        return f"{gin_files[0]} is"
    return f"Among {', '.join(gin_files)} is"


def _parse_files(gin_files: Sequence[str], gin_search_paths: Sequence[str]) -> None:
    gin.clear_config(clear_constants=True)
    gin.config._LOCATION_PREFIXES[:] = ["", *gin_search_paths, str(gin_configs())]
    pass_by_plain_folders()
    gin.config._FILE_READERS[:] = [
        (_up_to_date(read), exists)
        for read, exists in gin.config._FILE_READERS
        if exists is not _is_in_bucket
    ]
    gin.config._FILE_READERS.append((_up_to_date(_open_in_bucket), _is_in_bucket))
    try:
        with _quiet():
            gin.parse_config_files_and_bindings(list(gin_files), None, finalize_config=False)
    except _PARSE_ERRORS as e:
        raise InputError(_explain(e)) from e


def _as_now(path: str | pathlib.Path, text: str) -> str:
    """The text of a gin file with what `_RETIRED` lists replaced."""
    if pathlib.Path(path).name == CONFIG:
        # A run that has kept a converted copy is the same run without it.
        text = re.sub(r"^CONVERTED_CHECKPOINT_CACHE *=.*$\n?", "", text, flags=re.MULTILINE)
    for retired, now in _RETIRED:
        text = re.sub(retired, now, text, flags=re.MULTILINE)
    return text


def _up_to_date(read: Callable[[str], Any]) -> Callable[[str], io.StringIO]:
    """A reader of gin files that replaces what `_RETIRED` lists."""
    original = getattr(read, "__wrapped__", read)

    @functools.wraps(original)
    def reader(path: str) -> io.StringIO:
        with original(path) as file:
            replaced = io.StringIO(_as_now(path, file.read()))
        replaced.name = path  # For gin's messages.
        return replaced

    return reader


def parse_part(file: Any, root: str, gin_bindings: Sequence[str] = ()) -> None:
    """Parses of a run's `config.gin` what one configurable needs; nothing else is imported.

    Args:
      file: the file, without `include`.
      root: the configurable's name without its module, such as `RunConfig`.
      gin_bindings: as in `parse`.

    Raises:
      InputError: as `parse` does.
    """
    gin.clear_config(clear_constants=True)
    try:
        gin.parse_config(part(_as_now(file, file.read_text()), root))
    except _PARSE_ERRORS as e:
        raise InputError(_explain(e)) from e
    for binding in gin_bindings:
        _parse_binding(binding)
    _check_macros()


class _Reference(str):
    """`@scope/module.name()` or `%MACRO`, which a container prints as it is."""

    __repr__ = str.__str__


class _References(gin.config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        return _Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name):
        return _Reference(f"%{macro_name}")


def part(text: str, root: str) -> str:
    """The statements of a gin text that a configurable needs, found by following its references.

    Args:
      text: bindings and imports.
      root: the configurable's name without its module.
    """
    statements = list(gin.config_parser.ConfigParser(text, _References()))
    imports = [s for s in statements if isinstance(s, gin.config_parser.ImportStatement)]
    bindings = [s for s in statements if isinstance(s, gin.config_parser.BindingStatement)]
    needed, known = {root}, 0
    while len(needed) > known:
        known = len(needed)
        for binding in bindings:
            if _last_name(binding.selector) in needed:
                needed |= {_last_name(name) for name in _referred(binding.value)}
    kept = [binding for binding in bindings if _last_name(binding.selector) in needed]
    names = [name for b in kept for name in (b.selector, *_referred(b.value))]
    modules = {"dynamic_registration", *(name.partition(".")[0] for name in names)}
    lines = [s.format() for s in imports if s.bound_name() in modules]
    for scope, selector, argument, value, _ in kept:
        name = "/".join(filter(None, (scope, selector)))
        lines.append(f"{name}{'.' if argument else ''}{argument} = {value!r}")
    return "\n".join(lines) + "\n"


def _referred(value: Any) -> Iterator[str]:
    """The selectors that a parsed value refers to, without their scopes."""
    if isinstance(value, _Reference):
        yield value.strip("@%()").split("/")[-1]
    elif isinstance(value, dict):
        yield from _referred([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _referred(element)


def _last_name(selector: str) -> str:
    return selector.split(".")[-1]


def pass_by_plain_folders() -> None:
    """Has gin look for `models/demo.gin` elsewhere, too, where the working directory has `models`.

    Gin takes any folder of the working directory for a package, and fails on one without
    `__init__.py`: on `runs`, where runs are kept, for `runs/prompt_train.gin`.
    """
    gin.config._FILE_READERS[:] = [
        (read, _in_package if exists is _gin_in_package else exists)
        for read, exists in gin.config._FILE_READERS
    ]


def _in_package(path: str) -> bool:
    """Whether gin finds the file in an importable package."""
    try:
        return _gin_in_package(path)
    except TypeError:
        return False


def _is_in_bucket(path: str) -> bool:
    return in_bucket(path) and as_path(path).exists()


def _open_in_bucket(path: str) -> io.StringIO:
    return io.StringIO(as_path(path).read_text())


def _import_seqio() -> None:
    from dpt_jax.data.tasks import import_seqio

    import_seqio()


def _imports_tasks(file: str, folders: Sequence[str]) -> bool:
    # TensorFlow comes with our tasks, and its chatter at start-up.
    if in_bucket(file):
        return True  # A run's own file; TensorFlow opens it, too.
    paths = (pathlib.Path(folder, file) for folder in folders)
    found = next((path for path in paths if path.is_file()), None)
    return found is not None and "dpt_jax.tasks" in found.read_text(errors="replace")


_PARSE_ERRORS = (
    ValueError,
    SyntaxError,
    OSError,
    ImportError,
    AttributeError,
    NameError,
    TypeError,
    tokenize.TokenError,
)

# What a binding on the command line may name beside that which the gin files use.
_IMPORTS = """
from __gin__ import dynamic_registration
import optax
from dpt_jax import models
from dpt_jax import prompts
from dpt_jax import prefixes
from dpt_jax.prompts import initializers
from dpt_jax.training import config
from dpt_jax.training import schedules
"""

# What our tasks let gin set; their module brings TensorFlow, which other bindings can do without.
_TASK_BINDING = re.compile(
    r"(settings\.)?(superglue_dir|vocabulary_file)\.|(registry\.)?examples_proportional\."
)


def _parse_binding(binding: str) -> None:
    name, _, value = (part.strip() for part in binding.partition("="))
    try:
        gin.parse_config(binding)
        return
    except _PARSE_ERRORS as e:
        error = e
    if "No configurable matching" in str(error):
        # The files' imports do not reach here, so that `@optax.lion` is not known yet.
        imports = _IMPORTS
        if _TASK_BINDING.match(name):
            _import_seqio()
            imports += "from dpt_jax.tasks import registry\nfrom dpt_jax.tasks import settings\n"
        with contextlib.suppress(*_PARSE_ERRORS):
            gin.parse_config(imports + binding)
            return
    message = str(error).strip().split("\n  In bindings string")[0]
    if "parse" in message:
        message = (
            "it cannot be read; a value is written as in Python, without calls: 0.1, 'text', "
            "(1, 2), None, or @a_function."
        )
        if value and not any(mark in value for mark in "'\"@%([{=,"):
            message += f" A text needs quotes that the shell leaves: --gin.{name}=\"'{value}'\""
    unknown = re.search(r"'(\S+)' doesn't have a parameter named '(\w+)'", message)
    if unknown:
        message += nearest_names(unknown[2], _parameters(unknown[1]), count=1)
    raise InputError(f"--gin.{name}={value}: {message}") from error


def _parameters(selector: str) -> list[str]:
    """The arguments of what gin knows under a name, such as `optax.adamw`."""
    try:
        return list(inspect.signature(gin.get_configurable(selector)).parameters)
    except ValueError:
        return []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Gin logs an error for every search path that does not hold a file, also when a later one does.
    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Path not found")

    logging.getLogger().addFilter(keep)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(keep)


def _explain(error: Exception) -> str:
    message = str(error).strip()
    missing = re.search(r"Unable to open file: (\S+)\. Searched", message)
    if missing:
        name = missing.group(1)
        if pathlib.Path(name).is_dir():
            return f"{name} is a folder, no gin file. Change --gin_file."
        root = gin_configs()
        known = [str(p.relative_to(root)) for p in root.rglob("*.gin")]
        return (
            f"There is no gin file {name!r}.{nearest_names(name, known)} Looked in the working "
            f"directory, --gin_search_paths and {root}. Change --gin_file."
        )
    if isinstance(error, SyntaxError) and error.text:
        where = f"{error.filename}, line {error.lineno}: {error.text.strip()}"
        message = f"{error.msg} ({where})"
    # Gin writes the line under the message, and a mark under the line.
    message = re.sub(r"\s*\n\s*\^+\s*$", "", message)
    message = re.sub(r'(In file ".*", line \d+)\s*\n', r"\1:", message)
    return f"The gin configuration cannot be used: {' '.join(message.split())}"


def _macro_bindings() -> dict[str, Any]:
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
    return [name for name in _macro_bindings() if name not in {*used_macros(), *MACROS}]


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


def macros_of(gin_files: Sequence[str], gin_search_paths: Sequence[str] = ()) -> set[str]:
    """The macros that gin files set or use; replaces the parsed configuration.

    Raises:
      InputError: for a file that does not exist or cannot be parsed.
    """
    _parse_files(gin_files, gin_search_paths)
    return used_macros() | set(_macro_bindings())


def _check_macros() -> None:
    bound, used = _macro_bindings(), used_macros()
    for name in bound.keys() & _GONE.keys():
        raise InputError(
            f"The gin macro {name} is set to {bound[name]!r}, but it is gone: {_GONE[name]}, and "
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
            + (
                " or add a models/*.gin file."
                if unset[0] in ("MODEL", "EMBED_DIM")
                else " or add a prompts/*.gin or prefixes/*.gin file."
                if unset[0] == "PROMPT"
                else "."
            )
        )
    required = sorted(name for name, value in bound.items() if _is_required(value))
    if required:
        flags = " ".join(f"--gin.{name}=VALUE" for name in required)
        raise InputError(f"Required gin macros are not set: {', '.join(required)}. Add {flags}.")


def _remedy(configurable: str) -> str:
    if configurable == "RunConfig":
        return f"{_ADD_RUN_FILE}, which binds them to macros."
    return f"Bind them in a gin file, as gin_configs/{configurable.lower()}s does."


def build(configurable: Callable[..., T], **overrides: Any) -> T:
    """Calls `configurable` with the arguments that gin binds to it.

    Raises:
      InputError: when a required argument is bound nowhere, or a value is refused.
    """
    name = configurable.__name__
    try:
        bound = gin.get_configurable(configurable)
    except ValueError as e:
        # None of the files imports its module.
        raise InputError(f"Nothing sets the fields of {name}. {_remedy(name)}") from e
    try:
        return bound(**overrides)
    except (TypeError, ValueError, RuntimeError) as e:
        missing = re.search(r"No values supplied by Gin or caller for arguments: \[(.*)\]", str(e))
        if missing:
            raise InputError(f"Nothing sets {missing.group(1)} of {name}. {_remedy(name)}") from e
        # Gin appends where it was when it failed, which matters only where the message does not.
        message, _, where = str(e).strip().partition("\n  In call to configurable ")
        if where and "--gin." not in message and not isinstance(e, InputError):
            message += f" (in {where.split(' ')[0]})"
        raise InputError(message) from e


def bindings() -> dict[str, str]:
    """Everything that gin files and flags have bound, by its name, as gin text."""
    return gin_text.bindings(gin.config_str())


def operative_config() -> str:
    """The bindings that were in effect for everything called so far, as gin text."""
    return gin.operative_config_str()
