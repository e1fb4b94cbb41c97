"""What the attention of a run on text lies on: the prompt and the prefix, or the tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpt_jax.analysis import relevance
from dpt_jax.analysis.relevance import Selection
from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.evaluation.evaluator import decode_text
from dpt_jax.evaluation.t5_attention import attention_weights
from dpt_jax.interop.adapters import Adapter
from dpt_jax.models import T5Config
from dpt_jax.problems.text import Prepared, prepare
from dpt_jax.prompts import VanillaPrompt
from dpt_jax.tensors import Params

# Who asks: in the encoder the prompt's places and the text's; the decoder of what the encoder gives
# it, and of itself, where what is trained can be a prefix alone.
PROMPT, TEXT, CROSS, DECODER = "prompt", "text", "decoder", "decoder, of itself"
# How many rows are drawn.
_EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Example:
    """One row, to be drawn.

    Attributes:
      labels: of what is attended to.
      attention: the mean over heads and queries of who asks, `[layers, keys]`.
    """

    labels: list[str]
    attention: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
    """Attention on rows of a split.

    Attributes:
      rows: how many.
      selections: by who asks, the share on prompt and prefix, over their share of the keys; 0 in
        a layer that has neither.
      shares: the share itself, `[layers, heads]`.
      examples: the first rows.
    """

    rows: int
    selections: dict[str, Selection]
    shares: dict[str, np.ndarray]
    examples: list[Example]


def on_split(prepared: Prepared, adapter: Adapter, split: str) -> tuple[Prepared, Params]:
    """A network with a folded prompt and prefix, and a split as what it is trained on."""
    prompt, prefix = adapter.prompt, adapter.prefix
    config = dataclasses.replace(
        prepared.config,
        train_split=split,
        prompt=None if prompt is None else VanillaPrompt(*prompt.shape),
        prefix=None if prefix is None else prefix.module(prepared.config.model),
    )
    params = dict(prepared.placed)
    if prefix is not None:
        params["prefix"] = dict(prefix.arrays)
    if prompt is not None:
        params["prompt"] = {"prompt": prompt}
    return prepare(config, like=prepared), params


def measure(prepared: Prepared, adapter: Adapter, split: str, count: int) -> Found:
    """Measures attention on rows of a split.

    Args:
      prepared: the model and the task.
      adapter: the prompt, the prefix or both.
      split: whose rows.
      count: how many rows at most.

    Raises:
      InputError: when there is neither prompt nor prefix, or fewer than two rows.
    """
    if adapter.prompt is None and adapter.prefix is None:
        raise InputError(
            "The run has neither prompt nor prefix that attention could lie on. Name another run."
        )
    looked_at, params = on_split(prepared, adapter, split)
    data, own = looked_at.data, _Own.of(adapter, prepared.config.model)
    places = np.arange(looked_at.config.batch_size)
    found: dict[str, list[np.ndarray]] = {}
    even: dict[str, list[np.ndarray]] = {}
    examples: list[Example] = []
    rows, step = 0, 0
    with partitioning.activate(prepared.mesh):
        while rows < count and step < data.steps_per_epoch:
            batch = data.batch(step, places)
            placed = partitioning.put_batch(batch, prepared.mesh)
            weights = jax.device_get(attention_weights(looked_at.folded_model, params, placed))
            filled = np.flatnonzero(batch["encoder_input_tokens"].any(axis=1))
            for row in filled[: count - rows]:
                asked = _asked(weights, batch, row, own)
                for name, one in asked.items():
                    on_trained = one.attention[..., : one.trained].sum(axis=-1)
                    found.setdefault(name, []).append(on_trained)
                    even.setdefault(name, []).append(one.share)
                if len(examples) < _EXAMPLES:
                    tokens = batch["encoder_input_tokens"][row]
                    examples.append(_example(looked_at.vocabulary, tokens, own, asked))
                rows += 1
            step += 1
    if rows < 2:
        raise InputError(f"{split} has {rows} rows; two or more are needed. Name another --split.")
    shares = {name: np.stack(one) for name, one in found.items()}
    return Found(
        rows,
        {
            name: relevance.summary(one / _or_one(np.stack(even[name]))[..., None])
            for name, one in shares.items()
        },
        {name: one.mean(axis=0) for name, one in shares.items()},
        examples,
    )


def _or_one(shares: np.ndarray) -> np.ndarray:
    return np.where(shares > 0, shares, 1.0)


@dataclasses.dataclass(frozen=True)
class _Own:
    """How many keys there are of what is trained.

    Attributes:
      prompt: P.
      prefix: N of each stack that the prefix acts on.
      first: whether the prefix is in the first layer alone.
    """

    prompt: int
    prefix: Mapping[str, int]
    first: bool

    @classmethod
    def of(cls, adapter: Adapter, model: T5Config) -> "_Own":
        prompt, prefix = adapter.prompt, adapter.prefix
        return cls(
            0 if prompt is None else len(prompt),
            {} if prefix is None else dict.fromkeys(prefix.stacks, prefix.length),
            prefix is not None and prefix.module(model).layers == "first",
        )

    def prefixes(self, stack: str, layers: int) -> np.ndarray:
        """How many keys of each layer are the prefix's."""
        where = np.arange(layers) == 0 if self.first else np.ones(layers, bool)
        return where * self.prefix.get(stack, 0)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the queries of one row attend to.

    Attributes:
      attention: its mean over the queries, `[layers, heads, column]`, with the columns of
        `attention_weights` as far as these are no padding.
      trained: how many of the columns, from the first on, are of what is trained.
      share: of the keys, those that are trained, `[layers]`.
    """

    attention: np.ndarray
    trained: int
    share: np.ndarray


def _asked(
    weights: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray], row: int, own: _Own
) -> dict[str, _Asked]:
    """By who asks, as far as that one has something trained to attend to."""
    text = int(np.count_nonzero(batch["encoder_input_tokens"][row]))
    targets = int(np.count_nonzero(batch["decoder_target_tokens"][row]))
    source = own.prompt + text
    asking = {
        PROMPT: ("encoder", slice(0, own.prompt), source),
        TEXT: ("encoder", slice(own.prompt, source), source),
        CROSS: ("cross", slice(0, targets), source),
    }
    found = {}
    for name, (stack, queries, keys) in asking.items():
        trained = own.prompt + own.prefixes(stack, len(weights[stack]))
        if trained.any() and queries.stop > queries.start:
            attention = weights[stack][:, row, :, queries].mean(axis=2)[..., : 1 + keys]
            found[name] = _Asked(attention, 1 + own.prompt, trained / (trained + text))
    if "decoder" in own.prefix:
        attention = weights["decoder"][:, row, :, :targets].mean(axis=2)[..., : 1 + targets]
        trained = own.prefixes("decoder", len(attention))[:, None]
        # A target's query sees the targets up to its own.
        share = (trained / (trained + np.arange(1, targets + 1))).mean(axis=1)
        found[DECODER] = _Asked(attention, 1, share)
    return found


def _example(
    vocabulary: Any, tokens: np.ndarray, own: _Own, asked: Mapping[str, _Asked]
) -> Example:
    """A row with the means over heads of the text's queries and the decoder's."""
    labels = ["prefix"] if own.prefix else []
    labels += [f"P{i + 1}" for i in range(own.prompt)]
    labels += [decode_text(vocabulary, [int(token)]) or "·" for token in tokens[tokens > 0]]
    drop = 0 if own.prefix else 1
    return Example(
        labels,
        {
            name: asked[name].attention.mean(axis=1)[:, drop:]
            for name in (TEXT, CROSS)
            if name in asked
        },
    )
