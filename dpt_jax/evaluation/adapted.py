"""Generation where every row of a batch has a prompt, a prefix or both of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpt_jax.data.batches import evaluation_batches
from dpt_jax.devices import partitioning
from dpt_jax.evaluation.generation import Generator
from dpt_jax.interop.adapters import Adapter
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prefixes import PrefixPerRow
from dpt_jax.prompts import PromptPerRow
from dpt_jax.training.state import Params

# What one program serves: so many prompt tokens, and such a prefix in every row.
_Form = tuple[int, PrefixPerRow | None]


class AdaptedGenerator:
    """Generates for rows of tokens, each under an adapter of its own; programs are kept."""

    def __init__(self, config: T5Config, mesh: Mesh, batch_size: int, num_buckets: int):
        """Takes what all rows share.

        Args:
          config: the frozen T5.
          mesh: the devices, which divide `batch_size`.
          batch_size: rows decoded at once.
          num_buckets: padded source lengths, and so programs of one form, at most.
        """
        self._config, self._mesh = config, mesh
        self._batch_size, self._num_buckets = batch_size, num_buckets
        self._programs: dict[tuple[_Form, int, int], Generator] = {}

    def __call__(
        self,
        params: Params,
        tokens: Sequence[np.ndarray],
        adapters: Sequence[Adapter],
        max_decode_length: int,
        beam_size: int = 1,
    ) -> list[np.ndarray]:
        """Generates for every row.

        Args:
          params: the frozen T5's parameters, on the mesh.
          tokens: int32 source token ids of each row, end token included.
          adapters: the folded prompt and prefix of each row.
          max_decode_length: tokens to generate at most.
          beam_size: beams of decoding; 1 is greedy.

        Returns:
          int32 `[max_decode_length]` for every row, in their order.

        Raises:
          InputError: when a prefix is another model's.
        """
        outputs: list[np.ndarray] = [np.zeros(0, np.int32)] * len(tokens)
        known = {id(adapter): self._form(adapter) for adapter in adapters}
        forms = [known[id(adapter)] for adapter in adapters]
        # Prompts of one form share a batch, whichever they are.
        for form in dict.fromkeys(forms):
            program = self._program(form, max_decode_length, beam_size)
            rows = [i for i, of_row in enumerate(forms) if of_row == form]
            plan = evaluation_batches(
                [tokens[i] for i in rows], self._batch_size, self._num_buckets
            )
            for indices, batch in plan:
                chosen = [rows[i] for i in indices]
                # Padding rows repeat the last prompt; what they give is dropped.
                padded = chosen + [chosen[-1]] * (self._batch_size - len(chosen))
                merged = params | _stacked([adapters[i] for i in padded])
                with partitioning.activate(self._mesh):
                    placed = partitioning.put_batch({"tokens": batch}, self._mesh)
                    generated = np.asarray(program(merged, placed["tokens"]))
                for i, row in zip(chosen, generated, strict=False):
                    outputs[i] = row
        return outputs

    def check(self, adapter: Adapter, name: str) -> None:
        """Raises InputError where a prefix is another model's; `name` is its name in messages."""
        self._form(adapter, f"The prefix {name}")

    def _form(self, adapter: Adapter, source: str = "The prefix") -> _Form:
        length = 0 if adapter.prompt is None else len(adapter.prompt)
        if adapter.prefix is None:
            return length, None
        free = adapter.prefix.module(self._config, source)
        sizes = free.length, free.stacks, free.layers, free.position_bias
        return length, PrefixPerRow(*sizes, self._batch_size)

    def _program(self, form: _Form, max_decode_length: int, beam_size: int) -> Generator:
        key = form, max_decode_length, beam_size
        if key not in self._programs:
            length, prefix = form
            prompt = None
            if length:
                prompt = PromptPerRow(length, self._config.emb_dim, self._batch_size)
            model = Transformer(self._config, prompt, prefix)
            self._programs[key] = Generator(model, self._mesh, max_decode_length, beam_size)
        return self._programs[key]


def _stacked(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """The parameters of `PromptPerRow` and `PrefixPerRow` for rows of one form."""
    stacked: dict[str, Any] = {}
    if adapters[0].prompt is not None:
        stacked["prompt"] = {"prompts": np.stack([np.asarray(a.prompt) for a in adapters])}
    prefixes = [a.prefix.arrays for a in adapters if a.prefix is not None]
    if prefixes:
        stacked["prefix"] = {
            name: np.stack([arrays[name] for arrays in prefixes]) for name in prefixes[0]
        }
    return stacked
