"""The errors that a person can do something about; the command line prints them as one message."""

import contextlib
import difflib
import re
import signal
from collections.abc import Iterable, Iterator, Mapping

# Where Python finds a module that a person names.
MODULES_ARE_FOUND = (
    "Modules are found in the working directory and on PYTHONPATH: run the command where the "
    "module lies, or add its folder to PYTHONPATH"
)

# What a reader of files writes in a message for the flag or binding that gave the file's path,
# which only its caller knows: see `path_given_by`.
SETTING = "<setting>"


class _NamesSettings(Exception):
    """An error whose message names settings as its reader gives them.

    Attributes:
      setting: what stands for `SETTING` in the message.
      arguments: the Python arguments that stand for gin macros.
    """

    setting = "INITIAL_CHECKPOINT_PATH"
    arguments: Mapping[str, str] = {}

    def __str__(self) -> str:
        """The message, with the settings' names in their places."""
        message = super().__str__().replace(SETTING, self.setting)
        return _in_arguments(message, self.arguments) if self.arguments else message


def _in_arguments(message: str, arguments: Mapping[str, str]) -> str:
    """A message that names arguments of Python in the place of gin macros.

    What stands in quotes, and words with a slash, are people's own texts and paths: they stay.
    """
    macros = "|".join(map(re.escape, arguments))
    pattern = (
        rf"--gin\.(?P<flag>{macros})\b(?: ?= ?(?:\"(?P<value>[^\"]*)\")?)?"
        r"|(?<!\w)b?'(?:\\.|[^'\\])*'|(?<!\w)b?\"(?:\\.|[^\"\\])*\""
        r"|(?<!\S)[^\s'\"]*[/~]\S*"
        rf"|(?<![\w.-])(?P<macro>{macros})(?![\w-]|\.\w)"
    )

    def named(match: re.Match[str]) -> str:
        flag, value, macro = match.group("flag", "value", "macro")
        if flag:
            return f"{arguments[flag]}={value or ''}"
        return arguments[macro] if macro else match[0]

    return re.sub(pattern, named, message)


class InputError(_NamesSettings, ValueError):
    """Input that cannot be used: names the thing, its value, and the flag or binding to change.

    The command line prints its message without a traceback and exits with status 2.
    """


@contextlib.contextmanager
def path_given_by(setting: str) -> Iterator[None]:
    """Has errors raised inside name `setting` as what to change, not INITIAL_CHECKPOINT_PATH."""
    try:
        yield
    except InputError as error:
        error.setting = setting
        raise


@contextlib.contextmanager
def arguments_for(macros: Mapping[str, str]) -> Iterator[None]:
    """Has errors raised inside name arguments of Python in the place of the gin macros."""
    try:
        yield
    except _NamesSettings as error:
        error.arguments = macros
        raise


class NonFiniteLossError(_NamesSettings, RuntimeError):
    """The loss became NaN or infinite; names the step, the rate and the last good checkpoint."""


class Stopped(Exception):
    """A signal asked a run to stop; the state was saved first."""

    def __init__(self, signum: int, step: int):
        """Takes the signal's number and the step that was saved."""
        super().__init__(f"stopped by {signal.Signals(signum).name} after saving step {step}")
        self.signum = signum


LESS_MEMORY = (
    "Lower --gin.BATCH_SIZE and --gin.EVAL_BATCH_SIZE, raise --gin.MICROBATCHES, shorten "
    "--gin.TASK_FEATURE_LENGTHS (of texts), or set --gin.FROZEN_DTYPE=\"'bfloat16'\"."
)
_MEMORY_SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Unable to allocate")


def is_out_of_memory(error: Exception) -> bool:
    """Whether NumPy, JAX or a device says that there is not enough memory."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _MEMORY_SIGNS)


def explained(error: Exception) -> str | None:
    """What to say of an error of the machine, in one message; None where it is none that we know.

    Args:
      error: one that nothing has turned into an `InputError`.
    """
    if is_out_of_memory(error):
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"Out of memory ({first}). {LESS_MEMORY}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    # TensorFlow opens buckets, and reads the rows of tasks too.
    said = str(error).strip()
    if type(error).__module__.startswith("tensorflow.python.framework.errors") and "://" in said:
        return (
            f"A bucket cannot be used: {' '.join(said.split())}. See that it exists and that this "
            "machine may use it (gcloud auth application-default login), or name a folder."
        )
    return None


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns " Nearest: a, b." for the known names most like `name`, or "" when none is alike."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" Nearest: {', '.join(close)}." if close else ""
