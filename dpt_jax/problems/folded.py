"""The network that a trained prompt or prefix is used in, whatever its method."""

from dpt_jax.models import T5Config, Transformer
from dpt_jax.prefixes import Prefix, as_free
from dpt_jax.prompts import VanillaPrompt
from dpt_jax.training.config import RunConfig


def folded_model(
    config: T5Config, prompt_length: int | None, prefix: Prefix | None = None
) -> Transformer:
    """The network with a folded prompt of that length, or without one, and a folded prefix.

    It serves every method: `{"prompt": {"prompt": array}}` are its prompt's parameters.
    """
    folded = None if prompt_length is None else VanillaPrompt(prompt_length, config.emb_dim)
    return Transformer(config, folded, prefix)


def folded_model_of(config: RunConfig) -> Transformer:
    """The network with what a run's prompt and prefix fold into, where there are any."""
    prompt, prefix = config.prompt, config.prefix
    return folded_model(
        config.model,
        None if prompt is None else prompt.length,
        None if prefix is None else as_free(prefix),
    )
