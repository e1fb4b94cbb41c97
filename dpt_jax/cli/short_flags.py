"""The everyday flags, `--model`, `--task`, `--recipe` and so on, as gin files and bindings.

    dpt train --model=/models/t5-small --task=dpt_rte --recipe=paper --output=runs/rte

stands for the files of `gin_configs` and the macros that it names; nothing else is decided here.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from dpt_jax.errors import InputError, nearest_names, path_given_by

RUN_FILE = "runs/prompt_train.gin"
DEFAULT_RECIPE = "paper"
# Which module registers a task, by how its name begins; SuperGLUE's has macros of its own.
_SUPERGLUE = "dpt_"
_MODULES = {"demo_": "dpt_jax.demo.text_tasks"}
# The file of `models/` whose T5 comes with the package.
_DEMO = "demo"
# What the files of `models/` say: a macro has the width, and the rest is a run's choice.
_NOT_OF_A_MODEL = (
    "emb_dim",
    "attention",
    "dtype",
    "dropout_rate",
    "float32_attention_logits",
    "remat_policy",
)


class Given(NamedTuple):
    """What stands for the flags.

    Attributes:
      files: gin files, by their names in `gin_configs` or as they were given.
      bindings: gin bindings, `NAME = VALUE`.
    """

    files: list[str]
    bindings: list[str]


def add_model_flags(parser: argparse.ArgumentParser) -> Any:
    """Adds the flags that say what is trained; returns their group."""
    group = parser.add_argument_group("in short")
    group.add_argument(
        "--model",
        metavar="DIR",
        help="a pretrained T5: its folder or URL, whose sizes are read there; or a file of models/",
    )
    group.add_argument("--recipe", metavar="NAME", help=f"a file of recipes/ ({DEFAULT_RECIPE})")
    group.add_argument("--prompt", metavar="NAME", help="a file of prompts/ (the recipe's)")
    group.add_argument(
        "--prefix", metavar="NAME", help="a file of prefixes/, in place of the prompt or beside one"
    )
    return group


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds all of them."""
    group = add_model_flags(parser)
    group.add_argument("--task", metavar="NAME", help="a SeqIO task or mixture")
    group.add_argument("--output", metavar="DIR", help="the run's folder (MODEL_DIR)")


def given(args: argparse.Namespace, search_paths: Sequence[str]) -> Given | None:
    """What the flags stand for; None where none is there.

    Args:
      args: the parsed flags, with `gin_file` and `gin_bindings`, which come after these.
      search_paths: folders with gin files, beside the working directory and the package.

    Raises:
      InputError: for a name that does not exist, a folder that is no T5, or a flag that is missing.
    """
    short = {name: getattr(args, name, None) for name in ("model", "recipe", "prompt", "prefix")}
    task, output = getattr(args, "task", None), getattr(args, "output", None)
    if not any((*short.values(), task, output)):
        return None
    if short["model"] is None and not args.gin_file:
        raise InputError("--model is missing: name the folder of a pretrained T5.")
    known = {binding.partition(" = ")[0] for binding in args.gin_bindings}
    files: list[str] = [RUN_FILE]
    bindings: list[str] = []
    vocabulary = None
    if short["model"] is not None:
        model = _of_model(short["model"], search_paths)
        files, bindings = files + model.files, bindings + model.bindings
        vocabulary = _vocabulary(short["model"])
    files.append(_file("recipe", short["recipe"] or DEFAULT_RECIPE, search_paths))
    if short["prompt"] is not None:
        files.append(_file("prompt", short["prompt"], search_paths))
    if short["prefix"] is not None:
        files.append(_file("prefix", short["prefix"], search_paths))
        if short["prompt"] is None:
            bindings.append("PROMPT = None")  # The recipe's.
    if task is not None:
        of_task = _of_task(task, vocabulary, "MIXTURE_OR_TASK_MODULE" in known)
        files, bindings = files + of_task.files, bindings + of_task.bindings
    if output is not None:
        bindings.append(f"MODEL_DIR = {output!r}")
    missing = {"--task": "MIXTURE_OR_TASK_NAME", "--output": "MODEL_DIR"}
    for flag, macro in missing.items():
        absent = getattr(args, flag.removeprefix("--"), "") is None and macro not in known
        if absent and not args.gin_file:
            raise InputError(f"{flag} is missing, or --gin.{macro}. See dpt {args.command} --help.")
    return Given(files, bindings)


def _of_model(model: str, search_paths: Sequence[str]) -> Given:
    """The network of a model's folder, bound as the files of `models/` bind it."""
    if "://" not in model and not pathlib.Path(model).expanduser().exists() and "/" not in model:
        file = _file("model", model, search_paths, "a folder, or one of models/*.gin")
        return Given([file], [])
    from dpt_jax.interop import open_backbone
    from dpt_jax.models import T5Config

    with path_given_by("--model"):
        config = open_backbone(model).config
    bindings = [f"EMBED_DIM = {config.emb_dim}", f"INITIAL_CHECKPOINT_PATH = {model!r}"]
    for field in dataclasses.fields(T5Config):
        if field.name not in _NOT_OF_A_MODEL:
            bindings.append(f"models.T5Config.{field.name} = {getattr(config, field.name)!r}")
    return Given([f"models/t5_1_{0 if config.logits_via_embedding else 1}.gin"], bindings)


def _vocabulary(model: str) -> str | None:
    """What the macro VOCABULARY takes for a model's folder; None where that does not say."""
    if "://" in model:
        return None
    from dpt_jax import demo
    from dpt_jax.data.folder_vocabulary import named_by

    if model == _DEMO and not pathlib.Path(model).exists():
        return str(demo.VOCABULARY)
    return named_by(model)


def _of_task(task: str, vocabulary: str | None, has_module: bool) -> Given:
    named = Given([], [f"MIXTURE_OR_TASK_NAME = {task!r}"])
    if has_module:
        return named
    if task.startswith(_SUPERGLUE):
        own = [] if vocabulary is None else [f"VOCABULARY = {vocabulary!r}"]
        return Given(["tasks/superglue.gin"], named.bindings + own)
    for start, module in _MODULES.items():
        if task.startswith(start):
            named.bindings.append(f"MIXTURE_OR_TASK_MODULE = {module!r}")
    return named


def _file(kind: str, name: str, search_paths: Sequence[str], what: str = "") -> str:
    """The gin file of a name, such as `recipes/paper.gin` of "paper".

    Raises:
      InputError: when there is none, with the nearest names.
    """
    from dpt_jax.gin_utils import gin_configs

    folder = "prefixes" if kind == "prefix" else f"{kind}s"
    file = name if name.endswith(".gin") else f"{folder}/{name}.gin"
    roots = [pathlib.Path(root) for root in ("", *search_paths, str(gin_configs()))]
    if any((root / file).is_file() for root in roots):
        return file
    names = sorted({path.stem for root in roots for path in (root / folder).glob("*.gin")})
    near = nearest_names(name, names) or f" There are {', '.join(names)}."
    wanted = f"; it takes {what}" if what else ""
    raise InputError(f"--{kind} is {name!r}, but there is no {file}{wanted}.{near}")
