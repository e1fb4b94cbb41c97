"""Take a prompt home: as numpy files, as a PEFT adapter, or as safetensors.

  dpt export --model_dir=runs/rte --output=rte_prompt
  dpt export --model_dir=runs/rte --output=rte.npy
  dpt export --model_dir=runs/rte --output=rte_peft --format=peft --base_model=google-t5/t5-large
  dpt export --prompt=ANYTHING --output=rte.npy

The first writes rte_prompt/prompt.npy, float32 [P, D], and rte_prompt/prompt_params.npz, the
factors; an output that ends in .npy or .safetensors is one file. PeftModel.from_pretrained loads a
PEFT adapter on the Hugging Face model. --prompt converts any prompt that dpt inspect knows. A
README says how to load what was written; what an earlier export wrote there is replaced.
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from dpt_jax.cli.console import say
from dpt_jax.cli.gin_flags import refuse_bindings

HELP = "take a prompt home: numpy, PEFT or safetensors"
FORMATS = ("npy", "peft", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--model_dir", metavar="DIR", help="a run's folder")
    parser.add_argument("--step", metavar="STEP", help="best (default), latest or a number")
    parser.add_argument(
        "--prompt", metavar="PATH", help="a prompt of any format, instead of a run's own"
    )
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="a folder, or a .npy or .safetensors file"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="default: what --output ends in, or npy for a folder",
    )
    parser.add_argument(
        "--base_model",
        metavar="NAME_OR_FOLDER",
        help="for peft: the Hugging Face model that the adapter belongs to "
        "(default: the run's INITIAL_CHECKPOINT_PATH where that is one)",
    )
    parser.add_argument(
        "--gin_search_paths", action="append", default=[], metavar="DIR", help=argparse.SUPPRESS
    )


def run(args: argparse.Namespace) -> None:
    """Writes the files and prints the path of what was written."""
    from dpt_jax.errors import InputError
    from dpt_jax.interop import prompt_exports
    from dpt_jax.interop.adapters import Adapter
    from dpt_jax.paths import as_path

    if (args.model_dir is None) == (args.prompt is None):
        raise InputError("Name the prompt to export, either --model_dir=DIR or --prompt=PATH.")
    if args.prompt is not None and args.step is not None:
        raise InputError("--step names a step of --model_dir; with --prompt there is only one.")
    path = as_path(args.output)
    suffix = path.suffix.removeprefix(".")
    format = args.format or (suffix if suffix in FORMATS else "npy")
    if args.base_model is not None and format != "peft":
        raise InputError(f"--base_model is kept by --format=peft only, not by {format}.")
    if args.prompt is not None or format != "peft":
        refuse_bindings(args, "Without --model_dir and --format=peft, dpt export")

    if args.model_dir is not None:
        _tell_of_more(args.model_dir)
    if (prefix := _prefix_of(args)) is not None:
        _export_prefix(args, path, prefix, format)
        return
    read = _from_run if args.prompt is None else _from_file
    prompt, factors, origin, base = read(args, format == "peft")
    if args.base_model is not None:
        base = _named_base(args.base_model, Adapter(prompt), base)
    try:
        prompt_exports.export_prompt(path, prompt, factors, format, base, origin)
    except OSError as error:
        raise InputError(f"--output = {args.output} cannot be written: {error}.") from error
    print(args.output)


def _tell_of_more(model_dir: str) -> None:
    """Says where a run trained more than what is exported."""
    from dpt_jax import run_files
    from dpt_jax.paths import as_path

    try:
        saved = run_files.read_json(
            as_path(model_dir) / run_files.IDENTITY, "Copy the run's folder again."
        )
    except FileNotFoundError:
        return  # The plain arrays of a run alone.
    trained = saved.get("trainable", ".*")
    if trained not in (".*", "prompt/.*", "prefix/.*", "(prompt|prefix)/.*"):
        say(
            f"dpt export: {model_dir} trained {trained}; prompt and prefix alone are exported, and "
            "answer otherwise by themselves."
        )


def _prefix_of(args: argparse.Namespace) -> Any:
    """The folder of a prefix, or of a prefix and a prompt; None where there is no prefix."""
    from dpt_jax import inference
    from dpt_jax.interop import peft_prefix
    from dpt_jax.paths import as_path
    from dpt_jax.run_files import PREFIX, numpy_checkpoints

    path = as_path(args.prompt or args.model_dir)
    if steps := numpy_checkpoints(path):
        path = steps[inference.step_of_run(path, args.step or "best")]
    if path.name == PREFIX or (path / PREFIX).exists() or peft_prefix.is_prefix(path):
        return path
    return None


def _export_prefix(args: argparse.Namespace, path: Any, source: Any, format: str) -> None:
    from dpt_jax.interop.adapters import load_adapter, load_own
    from dpt_jax.interop.peft_adapter import BaseModel
    from dpt_jax.interop.prefix_exports import export_prefix

    flag = "--model_dir" if args.prompt is None else "--prompt"
    adapter = load_adapter(source, flag=flag)
    factors = load_own(source, flag) if source.is_dir() else {}
    base = BaseModel()
    if args.model_dir is not None and format == "peft":
        base = _base_of_run(args)
    if args.base_model is not None:
        base = _named_base(args.base_model, adapter, base)
    origin = f"It comes from {source.name}." if args.model_dir is None else ""
    export_prefix(path, adapter, factors, format, base, origin or "It was trained by dpt-jax.")
    print(args.output)


def _from_run(args: argparse.Namespace, with_base: bool) -> tuple[Any, Any, str, Any]:
    """The prompt of a run's step, its factors, where it is from, and what is known of its T5."""
    from dpt_jax import inference
    from dpt_jax.errors import InputError
    from dpt_jax.interop import load_factors, load_prompt
    from dpt_jax.interop.peft_adapter import BaseModel
    from dpt_jax.run_files import numpy_checkpoints

    step = inference.step_of_run(args.model_dir, args.step or "best")
    folder = numpy_checkpoints(args.model_dir).get(step)
    if folder is None:
        raise InputError(f"{args.model_dir} trained no prompt, so there is none to export.")
    prompt, factors = load_prompt(folder, flag="--model_dir"), load_factors(folder, "--model_dir")
    base = _base_of_run(args) if with_base else BaseModel()
    return prompt, factors, f"It was trained by dpt-jax, {step} steps.", base


def _base_of_run(args: argparse.Namespace) -> Any:
    """What is known of the T5 that a run's prompt was trained for."""
    from dpt_jax.cli import runs
    from dpt_jax.interop.peft_adapter import BaseModel

    config, _ = runs.load_without_tasks(argparse.Namespace(**vars(args), gin_file=[]))
    path = config.initial_checkpoint_path
    return BaseModel(
        path if path is not None and _hugging_face_config(path) is not None else None,
        config.model.num_encoder_layers,
        config.model.num_heads,
        config.model.num_decoder_layers,
    )


def _from_file(args: argparse.Namespace, with_base: bool) -> tuple[Any, Any, str, Any]:
    """The same of a prompt of any format."""
    from dpt_jax.interop import load_prompt
    from dpt_jax.interop.peft_adapter import BaseModel
    from dpt_jax.interop.stored_prompt import open_prompt

    del with_base
    stored = open_prompt(args.prompt)
    known = stored.details if stored.format == "peft" else {}
    base = BaseModel(
        known.get("base_model_name_or_path"),
        known.get("num_layers"),
        known.get("num_attention_heads"),
    )
    origin = f"It was converted from {stored.format_in_words()}."
    return load_prompt(args.prompt), stored.factors, origin, base


def _named_base(name: str, adapter: Any, known: Any) -> Any:
    """What --base_model says; its sizes where it is a folder here, else those that are known."""
    from dpt_jax.errors import InputError, path_given_by
    from dpt_jax.interop.hugging_face_config import config_from_hugging_face
    from dpt_jax.interop.special_ids import check_special_ids

    config = _hugging_face_config(name)
    if config is None:
        if pathlib.Path(name).is_dir():
            raise InputError(
                f"--base_model = {name} is a folder without the config.json of a T5 of Hugging "
                "Face's; PEFT adapters belong to such a model."
            )
        return dataclasses.replace(known, name_or_path=name)
    with path_given_by("--base_model"):
        check_special_ids(config, f"{name}/config.json")
        if adapter.prefix is not None:
            model = config_from_hugging_face(config, name)
            adapter.prefix.module(model, f"The prefix for --base_model = {name}")
    if adapter.prompt is not None and config.get("d_model") != adapter.prompt.shape[1]:
        raise InputError(
            f"--base_model = {name} is {config.get('d_model')} wide (d_model), but the prompt "
            f"{adapter.prompt.shape[1]}; name the model that the prompt was trained for."
        )
    layers = config.get("num_layers")
    decoder_layers = config.get("num_decoder_layers") or layers
    return type(known)(name, layers, config.get("num_heads"), decoder_layers)


def _hugging_face_config(path: str) -> dict[str, Any] | None:
    """The config.json of a T5 folder of Hugging Face's; None where `path` is no such folder."""
    try:
        config = json.loads((pathlib.Path(path).expanduser() / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and "d_model" in config else None
