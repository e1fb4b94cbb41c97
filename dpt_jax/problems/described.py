"""What a run says of itself: what it is, which must stay when it goes on, and what people read."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import DecomposedPrompt, SoftPrompt
from dpt_jax.training import run_folder
from dpt_jax.training.config import RunConfig
from dpt_jax.training.state import Params


def describe_method(method: SoftPrompt | Prefix | None) -> dict[str, Any] | None:
    """The method and its sizes; not its initializers, which matter only at the start."""
    if method is None:
        return None
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    sizes: dict[str, Any] = {k: v for k, v in fields.items() if isinstance(v, int | float | str)}
    sizes.pop("name", None)
    if isinstance(method, Prefix):
        sizes["stacks"] = list(method.stacks)
    return {"method": type(method).__name__} | sizes


def describe_run(config: RunConfig, task: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change when a run on text is continued, but for the backbone's fingerprint.

    Args:
      config: the run.
      task: what tells its training examples from others.

    Returns:
      Flat JSON.
    """
    model = dataclasses.asdict(config.model)
    model["dtype"] = config.model.dtype.name
    model["mlp_activations"] = list(config.model.mlp_activations)
    # Memory against time, and nothing else.
    del model["remat_policy"], model["attention"]
    # Runs from before umT5 do not have it.
    if not config.model.relpos_bias_per_layer:
        del model["relpos_bias_per_layer"]
    # Nor those from before prefixes.
    prefix = {} if config.prefix is None else {"prefix": describe_method(config.prefix)}
    # Nor those from before batches could be balanced.
    balanced = {"balanced_batches": True} if config.balanced_batches else {}
    return run_folder.flat(
        {
            "model": model,
            "prompt": describe_method(config.prompt),
            **prefix,
            "task": dict(task),
            "data": {"num_buckets": config.num_buckets, **balanced},
            "trainable": config.trainable_pattern,
        }
    )


def told_of_size(prompt: SoftPrompt | None) -> str:
    """A line for a decomposition that has more parameters than what it decomposes, or nothing."""
    if not isinstance(prompt, DecomposedPrompt) or prompt.embed_dim is None:
        return ""
    factors = prompt.bottleneck * (prompt.length + prompt.embed_dim)
    whole = prompt.length * prompt.embed_dim
    if factors <= whole:
        return ""
    return (
        f"\nBOTTLENECK = {prompt.bottleneck}: the factors have {factors:,} parameters, a plain "
        f"prompt of this length {whole:,} (DPT paper, section 6.4)"
    )


def diagnostics(prompt: SoftPrompt | None, trained: Params) -> Mapping[str, float]:
    """What a prompt says of its trained parameters; nothing where there is none."""
    if prompt is None or "prompt" not in trained:
        return {}
    return prompt.diagnostics(jax.device_get(trained["prompt"]))
