"""A pretrained T5 and what it is given, from what `PromptedT5.from_pretrained` is handed."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpt_jax.data.folder_vocabulary import open_vocabulary
from dpt_jax.data.kept_vocabulary import KeptVocabulary
from dpt_jax.data.pairs import NAME
from dpt_jax.data.vocabularies import check_vocabulary
from dpt_jax.errors import InputError, path_given_by
from dpt_jax.interop import open_backbone
from dpt_jax.interop.adapters import Adapter
from dpt_jax.interop.peft_adapter import BaseModel
from dpt_jax.models import T5Config
from dpt_jax.prefixes import Prefix
from dpt_jax.problems.continued import PromptLike, continued, factors_of, load
from dpt_jax.problems.text import Prepared, prepare
from dpt_jax.prompts import SoftPrompt
from dpt_jax.training.config import RunConfig

NUM_BUCKETS = 8
DEFAULT_SOURCE_LENGTH = 512


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What a `PromptedT5` is made of.

    Attributes:
      prepared: the frozen T5 with the prompt and the prefix that are to be trained.
      vocabulary: its tokenizer.
      adapter: what was trained before, folded; None where nothing was.
      own: the parameters that `adapter` was folded from, where they are kept.
      base: how PEFT's files name the T5.
      max_source_length: as it was given; None leaves it to a recipe.
      overlength: likewise.
    """

    prepared: Prepared
    vocabulary: KeptVocabulary
    adapter: Adapter | None
    own: Mapping[str, Any]
    base: BaseModel
    max_source_length: int | None
    overlength: str | None


def open_pretrained(
    folder: str | os.PathLike,
    method_or_prompt: SoftPrompt | Prefix | PromptLike | None,
    prompt: PromptLike | None,
    *,
    tokenizer: str | os.PathLike | None,
    mesh: Sequence[int],
    dtype: str | None,
    max_source_length: int | None,
    overlength: str | None,
) -> Pretrained:
    """Opens the T5; arguments and errors are those of `PromptedT5.from_pretrained`."""
    if max_source_length is not None:
        max_source_length = positive("max_source_length", max_source_length)
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"The folder of from_pretrained is {folder!r}; it is the path of a T5.")
    with path_given_by("the folder of from_pretrained"):
        backbone = open_backbone(folder)
        vocabulary = open_vocabulary(folder, backbone.config.vocab_size, tokenizer)
    source = os.fspath(folder)
    check_vocabulary(vocabulary, backbone.config, source, source, setting="tokenizer=")
    method, prompt = _told_apart(method_or_prompt, prompt)
    trained_prompt = method if isinstance(method, SoftPrompt) else None
    trained_prefix = method if isinstance(method, Prefix) else None
    adapter, own, model = None, {}, in_dtype(backbone.config, dtype)
    if prompt is not None:
        adapter, factors = load(prompt, model), factors_of(prompt)
        own = {"prompt": factors} if factors else {}
        trained_prompt, trained_prefix = continued(adapter, factors)
    config = RunConfig(
        model_dir="",
        model=model,
        prompt=trained_prompt,
        prefix=trained_prefix,
        initial_checkpoint_path=source,
        mixture_or_task_name=NAME,
        task_feature_lengths={"inputs": max_source_length or DEFAULT_SOURCE_LENGTH, "targets": 1},
        train_steps=1,
        num_buckets=NUM_BUCKETS,
        mesh=_sizes(mesh),
        frozen_dtype=frozen_dtype(dtype),
        overlength=overlength or "error",
    )
    base = BaseModel(
        os.fspath(folder) if backbone.format == "hf" else None,
        model.num_encoder_layers,
        model.num_heads,
        model.num_decoder_layers,
    )
    prepared = on_vocabulary(prepare(config), vocabulary)
    return Pretrained(prepared, vocabulary, adapter, own, base, max_source_length, overlength)


def moved(
    prepared: Prepared, mesh: Sequence[int] | None, dtype: str | None
) -> tuple[Prepared, bool]:
    """The same T5 on another mesh or in another dtype; None keeps what there is.

    Returns:
      What was given, where nothing changes; and whether something does. Weights that stay where
      they are are not placed again.
    """
    config = prepared.config
    changed = config
    if mesh is not None:
        changed = dataclasses.replace(changed, mesh=_sizes(mesh))
    if dtype is not None:
        model = in_dtype(config.model, dtype)
        changed = dataclasses.replace(changed, model=model, frozen_dtype=frozen_dtype(dtype))
    if all(getattr(changed, x) == getattr(config, x) for x in ("mesh", "model", "frozen_dtype")):
        return prepared, False
    return on_vocabulary(prepare(changed), prepared.vocabulary), True


def on_vocabulary(prepared: Prepared, vocabulary: KeptVocabulary) -> Prepared:
    """The same, with a vocabulary in the place of a task's."""
    prepared.vocabulary = vocabulary
    return prepared


def in_dtype(config: T5Config, dtype: str | None) -> T5Config:
    """The network with activations of a dtype; None keeps it."""
    try:
        return config if dtype is None else dataclasses.replace(config, dtype=dtype)
    except ValueError as e:
        raise InputError(f"dtype is {dtype!r}; it must be 'float32' or 'bfloat16'.") from e


def frozen_dtype(dtype: str | None) -> str | None:
    """How the frozen weights are stored beside activations of a dtype; None is as in the file."""
    return "bfloat16" if dtype is not None and jnp.dtype(dtype) == jnp.bfloat16 else None


def positive(name: str, value: Any) -> int:
    """A positive integer of Python's or NumPy's; raises InputError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a positive integer.")
    return int(value)


def _sizes(mesh: Any) -> Any:
    """The sizes of a mesh as Python has them; what is none is left for `RunConfig` to refuse."""
    if not isinstance(mesh, Iterable):
        return mesh
    return tuple(int(n) if isinstance(n, np.integer) else n for n in mesh)


def _told_apart(
    method_or_prompt: SoftPrompt | Prefix | PromptLike | None, prompt: PromptLike | None
) -> tuple[SoftPrompt | Prefix | None, PromptLike | None]:
    """The method, or else the prompt, of which one may be given."""
    if isinstance(method_or_prompt, type):
        name = method_or_prompt.__name__
        raise InputError(f"{name} is a class; give one of it, such as {name}(length=20, ...).")
    if not isinstance(method_or_prompt, SoftPrompt | Prefix):
        if method_or_prompt is not None and prompt is not None:
            raise InputError("Two prompts are given; one is what fit begins with. Leave one out.")
        return None, prompt if method_or_prompt is None else method_or_prompt
    if prompt is not None:
        raise InputError(
            f"Both a method, {type(method_or_prompt).__name__}, and a prompt are given. Leave out "
            "the method to go on from the prompt, or give the method initializers that start "
            "there, such as dpt_jax.prompts.truncated_svd."
        )
    return method_or_prompt, None
