"""Telling what a file or folder is: a prompt, a pretrained T5, a run or another PEFT adapter."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float32
from numpy import ndarray

from dpt_jax import run_files
from dpt_jax.errors import InputError, path_given_by
from dpt_jax.files import entries
from dpt_jax.interop import peft_adapter, peft_prefix, stored_prompt, t5x_checkpoint
from dpt_jax.interop.adapters import load_adapter
from dpt_jax.interop.backbones import open_backbone
from dpt_jax.interop.hugging_face import read_json
from dpt_jax.interop.own_folder import stored_sizes
from dpt_jax.interop.safetensors_file import open_safetensors
from dpt_jax.interop.vit import is_vit, open_vit
from dpt_jax.interop.vit import own_folder as vit_folder
from dpt_jax.models import T5Config
from dpt_jax.paths import as_path, in_bucket
from dpt_jax.tensors import Tensor, in_memory

_BACKBONES = {
    "dpt": "a pretrained T5 in dpt-jax's own format",
    "hf": "a pretrained T5 of Hugging Face Transformers",
    "t5x": "a pretrained T5 in T5X's released (zarr) checkpoint format",
    "orbax": "a pretrained T5 in T5X's Orbax checkpoint format",
}
_VITS = {
    "dpt": "in dpt-jax's own format",
    "hf": "of Hugging Face Transformers",
    "npz": "a .npz of google-research's",
}
# A folder with one of these is meant as a pretrained T5, whole or not.
_BACKBONE_FILES = (
    "backbone.json config.json checkpoint _METADATA _CHECKPOINT_METADATA manifest.ocdbt "
    "model.safetensors model.safetensors.index.json pytorch_model.bin pytorch_model.bin.index.json"
).split()


@dataclasses.dataclass(frozen=True)
class Description:
    """What a path holds.

    Attributes:
      kind: "prompt", "prefix", "backbone", "run", "adapter" (another one of PEFT) or "tensors".
      summary: the same in words, with the format.
      parameters: what is stored, by name.
      details: what else is said there, ready for JSON.
      prompt: the prompt, where it is one or has one and it can be folded.
      config: the sizes of a pretrained T5, whose `parameters` have T5X's names.
    """

    kind: str
    summary: str
    parameters: Mapping[str, Tensor]
    details: Mapping[str, Any]
    prompt: Float32[ndarray, "length embed"] | None = None
    config: T5Config | None = None


def describe(location: str) -> Description:
    """Finds out what `location` holds by looking inside; of a backbone no parameter is read.

    Args:
      location: a file or folder, or the URL of a checkpoint of T5X's.

    Raises:
      InputError: nothing is there, it is damaged, or it is nothing that is known.
    """
    if "://" in location:
        # A checkpoint of T5X's is found without TensorFlow, and by more kinds of URL.
        try:
            return _backbone(location)
        except InputError:
            if not as_path(location).exists():
                raise
    path = as_path(location)
    if not path.exists():
        raise InputError(f"There is no file or folder {path}. Change PATH.")
    if path.is_file():
        return _file(path)
    names = {entry.name for entry in entries(path)}
    if peft_adapter.CONFIG in names:
        config = read_json(path / peft_adapter.CONFIG)
        if config.get("peft_type") == peft_prefix.PREFIX_TUNING:
            return _prefix(path, load_adapter(path, flag="PATH"), _without_nulls(config))
        if config.get("peft_type") not in peft_adapter.SOFT_PROMPTS:
            summary = f"a PEFT adapter of type {config.get('peft_type')}, which is no soft prompt"
            tensors = peft_adapter.open_tensors(path, "PATH")
            return Description("adapter", summary, tensors, _without_nulls(config))
    elif run_files.IDENTITY in names:
        return _run(path)
    elif run_files.PREFIX in names:
        return _prefix(path, load_adapter(path, flag="PATH"), {})
    elif names & set(_BACKBONE_FILES):
        return _backbone(location)
    try:
        return _prompt(path)
    except stored_prompt.NotAPrompt:
        pass
    try:
        return _backbone(location)
    except InputError as error:
        raise InputError(f"{error} Looked for prompts too: {stored_prompt.LOOKED_FOR}.") from error


def _file(path: Any) -> Description:
    if path.name == run_files.PREFIX:
        return _prefix(path, load_adapter(path, flag="PATH"), {})
    if is_vit(path):
        return _vit(str(path))
    if path.suffix == ".safetensors" and not in_bucket(path):
        with path_given_by("PATH"):
            tensors = open_safetensors(path)
        if not {stored_prompt.TENSOR, peft_adapter.TENSOR} & set(tensors):
            summary = "a safetensors file of tensors, no soft prompt"
            return Description("tensors", summary, tensors, {})
    try:
        return _prompt(path)
    except stored_prompt.NotAPrompt as error:
        raise InputError(f"{error} A pretrained T5 is a folder.") from error


def _prompt(path: Any) -> Description:
    stored = stored_prompt.open_prompt(path, "PATH")
    details = dict(stored.details)
    if stored.prompt is None:
        details["note"] = "factors that only their own method can fold into a prompt"
    return Description(
        "prompt",
        f"a soft prompt, {stored.format_in_words()}",
        {name: in_memory(array) for name, array in stored.arrays.items()},
        details,
        stored.prompt,
    )


def _prefix(path: Any, adapter: Any, details: Mapping[str, Any]) -> Description:
    """A folded prefix, and the prompt that it was trained with where there is one."""
    prefix = adapter.prefix
    arrays = {name: in_memory(array) for name, array in prefix.arrays.items()}
    if adapter.prompt is not None:
        arrays[run_files.PROMPT] = in_memory(adapter.prompt)
    kept = "a PEFT adapter folder of type PREFIX_TUNING" if details else run_files.PREFIX
    where = ", ".join(prefix.stacks)
    return Description(
        "prefix",
        f"a prefix of {prefix.length} tokens ({where}), {kept}",
        arrays,
        {**details, "position_bias": prefix.position_bias},
        adapter.prompt,
    )


def _run(folder: Any) -> Description:
    identity = run_files.read_json(folder / run_files.IDENTITY, "Copy the run's folder again.")
    if identity.get("problem") == "images":
        return _image_run(folder, identity)
    steps = run_files.numpy_checkpoints(folder)
    details: dict[str, Any] = {
        "task": identity.get("task.mixture_or_task_name"),
        "method": identity.get("prompt.method"),
        "prefix method": identity.get("prefix.method"),
        "steps with a saved prompt": list(steps),
    }
    best = run_files.best_step(folder)
    shown = best if best in steps else max(steps, default=None)
    details["best step"] = best
    details["shown step"] = shown
    details = _without_nulls(details)
    summary = "a run of dpt train"
    if shown is None:
        return Description("run", f"{summary} without a saved prompt", {}, details)
    if (steps[shown] / run_files.PREFIX).exists():
        adapter = load_adapter(steps[shown], flag="PATH")
        found = _prefix(steps[shown], adapter, {})
        return dataclasses.replace(found, kind="run", summary=summary, details=details)
    stored = stored_prompt.open_prompt(steps[shown], "PATH")
    arrays = {name: in_memory(array) for name, array in stored.arrays.items()}
    return Description("run", summary, arrays, details, stored.prompt)


def _image_run(folder: Any, identity: Mapping[str, Any]) -> Description:
    steps = run_files.numpy_checkpoints(folder)
    details = {
        "data": f"{identity.get('task.data')}{identity.get('task.draw')}",
        "classes": identity.get("task.classes"),
        "method": identity.get("prompt.method"),
        "placement": identity.get("placement") if identity.get("prompt.method") else None,
        "prefix method": identity.get("prefix.method"),
        "trained": identity.get("trainable"),
        "best step": run_files.best_step(folder),
        "steps with a saved prompt": list(steps) or None,
    }
    arrays: dict[str, Tensor] = {}
    if shown := run_files.kept_checkpoint(folder):
        details["shown step"] = int(shown.name.rpartition("_")[2])
        arrays = {
            name: in_memory(array)
            for file in (run_files.HEAD, run_files.FACTORS, run_files.PREFIX_FACTORS)
            if (shown / file).exists()
            for name, array in stored_prompt.read_npz(shown / file, "PATH").items()
        }
    return Description("run", "a run of dpt train on images", arrays, _without_nulls(details))


def _vit(location: str) -> Description:
    with path_given_by("PATH"):
        vit = open_vit(location)
    details = vit_folder.stored_sizes(vit.config)
    return Description("backbone", f"a pretrained ViT, {_VITS[vit.format]}", vit.tensors, details)


def _backbone(location: str) -> Description:
    if is_vit(location):
        return _vit(location)
    with path_given_by("PATH"):
        backbone = open_backbone(location)
        beside = prompt_beside(location) if backbone.format == "t5x" else ""
    details = json.loads(json.dumps(stored_sizes(backbone.config)))
    if beside:
        details["prompt beside it"] = beside
    summary = _BACKBONES.get(backbone.format, f"a pretrained T5, format {backbone.format}")
    return Description("backbone", summary, backbone.tensors, details, config=backbone.config)


def prompt_beside(location: str) -> str:
    """The parameters of the prompt that `t5x.train` saved beside a T5, in words; or nothing."""
    url = location if in_bucket(location) else as_path(location).resolve().as_uri()
    if not t5x_checkpoint.has_index(url):
        return ""
    tensors = t5x_checkpoint.open_prompt(url)
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
