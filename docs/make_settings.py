"""Writes docs/settings.md from the code: `python docs/make_settings.py`.

What a macro does is said in the docstring of what the gin files bind it to, and its default is in
the gin files. A test compares the page with what this makes.
"""

import dataclasses
import importlib
import inspect
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterator

from dpt_jax.analysis import claims, figures
from dpt_jax.analysis.report import Report
from dpt_jax.gin_utils import gin_configs
from dpt_jax.sweeps import Sweep
from dpt_jax.training.config import RunConfig, TrainingConfig

PAGE = pathlib.Path(__file__).with_name("settings.md")

# Of several files that set a macro, the first one's value is shown.
RUN = ("runs/prompt_train.gin",)
IMAGE_RUN = ("runs/image_train.gin",)
MODEL = ("models/t5_1_1.gin",)
PROMPTS = tuple(
    f"prompts/{name}.gin"
    for name in ("decomposed", "vanilla_class_labels", "vanilla_from_prompt", "residual")
) + ("prefixes/decomposed.gin", "prefixes/free_from_prefix.gin")
# Where a default is, if none of the files above has it.
MODELS, MODEL_OR_PROMPT = "the model file's", "the model or prompt file's"

_IMPORT = re.compile(r"^from (\S+) import (\w+)$|^import (\w+)$", re.MULTILINE)
_BLOCK = re.compile(r"^([\w.]+):$")
_BINDING = re.compile(r"^\s*(?:([\w.]+)\.)?(\w+) = (.+?)(?:  #.*)?$")


@dataclasses.dataclass(frozen=True)
class Macro:
    """A macro of the gin files.

    Attributes:
      name: in capitals.
      default: what a gin file sets it to, as gin text; None where none does.
      text: what the bound argument's docstring says.
    """

    name: str
    default: str | None
    text: str


def macros(files: tuple[str, ...]) -> Iterator[Macro]:
    """The macros that some gin files use, in their order."""
    defaults: dict[str, str] = {}
    texts: dict[str, str] = {}
    for file in files:
        content = (gin_configs() / file).read_text()
        modules = {
            (found[2] or found[3]): (f"{found[1]}.{found[2]}" if found[2] else found[3])
            for found in _IMPORT.finditer(content)
            if found[1] != "__gin__"
        }
        block = ""
        for line in content.splitlines():
            if found := _BLOCK.match(line):
                block = found[1]
            elif found := _BINDING.match(line):
                owner, name, value = found[1] or block, found[2], found[3]
                if name.isupper():
                    defaults.setdefault(name, value)
                elif value.startswith("%"):
                    texts.setdefault(value[1:], argument(modules, owner, name))
            elif not line.startswith(" "):
                block = ""
    for name, text in texts.items():
        default = defaults.get(name)
        yield Macro(name, "required" if default == "%gin.REQUIRED" else default, text)


def argument(modules: dict[str, str], owner: str, name: str) -> str:
    """What the docstring of `owner`, as in `prompts.DecomposedPrompt`, says of an argument."""
    module, _, attribute = owner.partition(".")
    configurable = getattr(importlib.import_module(modules[module]), attribute)
    if not inspect.getmodule(configurable).__name__.startswith("dpt_jax"):
        return f"`{name}` of `{owner}`"
    for one in inspect.getmro(configurable) if inspect.isclass(configurable) else [configurable]:
        if name in (found := arguments(one)):
            return found[name]
    raise KeyError(f"{owner} does not say what {name} is")


def arguments(configurable: Callable) -> dict[str, str]:
    """The arguments or attributes that a docstring lists, with what it says of them."""
    documented = inspect.getdoc(configurable) or ""
    sections = re.split(r"^(Args|Attributes|Returns|Raises|Yields):$", documented, flags=re.M)
    found = {}
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        if title in ("Args", "Attributes"):
            # An entry goes on where a line is indented by more than the first one.
            indent = re.match(r"\n*( +)", body)[1]
            for entry in re.split(rf"^{indent}(?=\w)", body, flags=re.M)[1:]:
                name, _, text = entry.partition(":")
                for one in name.split(", "):
                    found[one] = " ".join(text.split())
    return found


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def macro_table(files: tuple[str, ...], missing: str = "") -> str:
    """A table of the macros that files use."""
    rows = []
    for macro in macros(files):
        # The fields of RunConfig name their macro themselves.
        text = macro.text.removeprefix(f"{macro.name}, ")
        default = macro.default if macro.default in ("required", None) else f"`{macro.default}`"
        rows.append((f"`{macro.name}`", default or missing, text))
    return table(("macro", "default", "what it is"), rows)


def field_table(cls: type, skip: tuple[str, ...] = ()) -> str:
    """A table of the fields of a dataclass."""
    documented = (
        {**arguments(TrainingConfig), **arguments(cls)} if cls is RunConfig else arguments(cls)
    )
    rows = []
    for field in dataclasses.fields(cls):
        if field.name in skip:
            continue
        default = "required"
        if field.default is not dataclasses.MISSING:
            default = f"`{field.default!r}`"
        elif field.default_factory is not dataclasses.MISSING:
            made = field.default_factory()
            default = f"`{made!r}`" if isinstance(made, dict | tuple | list) else "its defaults"
        rows.append((f"`{field.name}`", default, documented[field.name]))
    return table(("field", "default", "what it is"), rows)


def page() -> str:
    """The page's text."""
    # What `runs/prompt_train.gin` binds to a macro.
    bound = re.findall(r"^  (\w+) = %", (gin_configs() / RUN[0]).read_text(), re.MULTILINE)
    kinds = []
    for kind, draw in figures.KINDS.items():
        options = ", ".join(f"`{option}`" for option in sorted(figures.options_of(kind)))
        shows = (inspect.getdoc(draw) or "").partition("\n\n")[0].replace("\n", " ")
        kinds.append((f"`{kind}`", options or "none", shows))
    return _PAGE.format(
        run=macro_table(RUN, MODEL_OR_PROMPT),
        prompt=macro_table(PROMPTS, MODELS),
        model=macro_table(MODEL, MODELS),
        images=macro_table(IMAGE_RUN, MODEL_OR_PROMPT),
        fields=field_table(RunConfig, tuple(bound)),
        example=examples(Sweep),
        sweep=field_table(Sweep),
        report=field_table(Report),
        figures=table(("kind", "options", "what it shows"), kinds),
        claims=(claims.__doc__ or "").partition("\n\n")[2].strip(),
    )


_PAGE = """\
# Settings

Made from the code by `python docs/make_settings.py`; a test compares the two.

## Macros of `dpt train`

The short flags stand for some of these: `--model` for `INITIAL_CHECKPOINT_PATH` and the sizes of
the network, `--task` for `MIXTURE_OR_TASK_NAME`, `--output` for `MODEL_DIR`, and `--recipe`,
`--prompt` and `--prefix` for a file of that folder.

A gin file sets a macro by `NAME = value`, and a flag by `--gin.NAME=value`. Later files override
earlier ones, flags override files. A flag that nothing in the run uses is refused, but for
those that only some methods have (`PROMPT_LENGTH`, `BOTTLENECK`, `PREFIX_LENGTH`, `PREFIX_STACKS`,
`PREFIX_LAYERS`), which are named in the log. A text in a flag needs no quotes of its own, as in
`--gin.MODEL_DIR=runs/rte`, unless it holds one of `'"@%()[]{{}},#`. Recipes (`recipes/*.gin`) and
`runs/demo.gin` set some of these. A prompt file goes before `runs/demo.gin` and after a recipe:
each sets `PROMPT_LENGTH`, and the last one counts. [t5x.md](t5x.md) has the macros of `t5x.train`.

### The run (`runs/prompt_train.gin`)

{run}

### The prompt (`prompts/*.gin`)

{prompt}

### The model (`models/*.gin`)

{model}

### Fields without a macro

Set by `--gin.RunConfig.NAME=value`.

{fields}

## Runs on images (`runs/image_train.gin`)

[images.md](images.md) tells what they are. Fields without a macro are set by
`--gin.ImageRunConfig.NAME=value`; beside those above there is `train_split`.

{images}

## A sweep's gin file

It binds `sweeps.Sweep` and `sweeps.Report` (`from dpt_jax import sweeps`);
[gin_configs/sweeps](../gin_configs/sweeps) has examples. `--gin.Sweep.FIELD=value` and
`--gin.Report.FIELD=value` change a field.

### `sweeps.Sweep`

{example}

{sweep}

### `sweeps.Report`

{report}

### Figures

{figures}

`x` is the axis below. `lines` is an axis whose values have a line each. `log` scales `x` by
logarithms.

### Claims

{claims}
"""


def examples(cls: type) -> str:
    """What a docstring says between its first line and its attributes, the example as code."""
    text = (inspect.getdoc(cls) or "").partition("\n\n")[2].partition("\nAttributes:")[0].strip()
    before, _, rest = text.partition("::\n\n")
    code, _, after = rest.partition("\n\n")
    return f"{before}:\n\n```\n{textwrap.dedent(code)}\n```\n\n{after.strip()}"


if __name__ == "__main__":
    PAGE.write_text(page())
