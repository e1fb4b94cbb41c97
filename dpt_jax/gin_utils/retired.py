"""What earlier versions wrote or read in gin files, and what it is read as now."""

import pathlib
import re

from dpt_jax.run_files import CONFIG

# Macros that are gone, and what to do instead.
GONE = {
    "CONVERTED_CHECKPOINT_CACHE": "`dpt convert` makes a converted copy of a pretrained T5; set "
    "INITIAL_CHECKPOINT_PATH to the copy",
}

# Lines that earlier versions wrote into a run's config.gin or read in a user's file, as regular
# expressions, and what they are read as now. Every gin file passes through this table, included
# ones too. An entry may go when no run of such a version is worth reading any more.
_RETIRED = (
    # Sweeps are a package of their own.
    (r"^from dpt_jax\.analysis import sweeps\b", "from dpt_jax import sweeps"),
    # `dpt convert` took the cache's place; a folder that is still set is refused: see `GONE`.
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


def as_now(path: str | pathlib.Path, text: str) -> str:
    """The text of a gin file with what `_RETIRED` lists replaced."""
    if pathlib.Path(path).name == CONFIG:
        # A run that has kept a converted copy is the same run without it.
        text = re.sub(r"^CONVERTED_CHECKPOINT_CACHE *=.*$\n?", "", text, flags=re.MULTILINE)
    for retired, now in _RETIRED:
        text = re.sub(retired, now, text, flags=re.MULTILINE)
    return text
