"""Rank classification: a row's answer is the candidate that the model finds most probable.

A candidate's score is the sum of the log-probabilities of its tokens, the end token included, and
is not divided by its length: what T5's `rank_classification` metric does unless told otherwise.
A sum is the probability of the whole answer, so that answers are compared as generation would meet
them; long candidates have lower sums.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dpt_jax.data.batches import pad, round_up
from dpt_jax.data.batching import choose_buckets, plan_batches
from dpt_jax.data.examples import TaskExamples
from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.models import Transformer, decoding

# Logits are [decoder tokens, vocabulary] in float32: half a gigabyte per shard at T5's 32,128.
MAX_DECODER_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The answers that each row of a task admits.

    Attributes:
      texts: of every row, in the order in which the row lists them.
      tokens: the same as int32 token ids, with the end token where targets have it.
    """

    texts: list[list[str]]
    tokens: list[list[np.ndarray]]


def read_candidates(task: TaskExamples, feature: Any) -> Candidates:
    """Tokenizes the `candidates` that a task's rows bring, as its targets are.

    Args:
      task: rows with `candidates`, a 1-D array of texts.
      feature: the SeqIO feature `targets`, for its vocabulary and whether it ends in EOS.

    Raises:
      InputError: when a row has none.
    """
    ids: dict[str, np.ndarray] = {}
    texts: list[list[str]] = []
    for number, row in enumerate(task.rows):
        found = np.atleast_1d(row.get("candidates", ())).tolist()
        if not found:
            where = "rows" if "candidates" not in row else f"row {number}"
            raise InputError(
                f"Task {task.name!r} cannot be scored by rank: its {where} bring no 'candidates' "
                "to choose from. Score by generation: --gin.SCORING=\"'generation'\", or "
                "--scoring=generation for dpt evaluate."
            )
        texts.append([t.decode() if isinstance(t, bytes) else str(t) for t in found])
        for text in texts[-1]:
            if text not in ids:
                tokens = list(feature.vocabulary.encode(text))
                tokens += [feature.vocabulary.eos_id] * bool(feature.add_eos)
                ids[text] = np.asarray(tokens, np.int32)
    return Candidates(texts, [[ids[text] for text in row] for row in texts])


# As a `Generator`'s programs, it is shared by all runs of one model in one process.
@functools.lru_cache(maxsize=16)
def scorer(model: Transformer, mesh: Mesh) -> Callable[..., jax.Array]:
    """`decoding.score_targets` of a model, compiled for a mesh; every process gets all scores."""
    return jax.jit(
        functools.partial(decoding.score_targets, model),
        out_shardings=partitioning.replicated(mesh),
    )


def score_candidates(
    score_batch: Callable[..., jax.Array],
    inputs: Sequence[np.ndarray],
    candidates: Sequence[Sequence[np.ndarray]],
    *,
    mesh: Mesh,
    batch_size: int,
    num_buckets: int,
) -> list[np.ndarray]:
    """The log-probability of each candidate of each row.

    Args:
      score_batch: a `scorer` that has its parameters.
      inputs: source token ids of each row.
      candidates: target token ids of each candidate of each row.
      mesh: the devices.
      batch_size: rows of a batch at most.
      num_buckets: shapes, and so compiled programs, at most.

    Returns:
      float32 `[candidates]` for every row.
    """
    scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(candidates)
    batches = candidate_batches(
        inputs,
        candidates,
        batch_size=batch_size,
        num_buckets=num_buckets,
        shards=mesh.shape["data"] * mesh.shape["fsdp"],
    )
    for indices, sources, padded in batches:
        with partitioning.activate(mesh):
            batch = partitioning.put_whole_batch({"x": sources, "y": padded}, mesh)
            found = np.asarray(score_batch(batch["x"], batch["y"]))
        for i, row in zip(indices, found, strict=False):
            scores[i] = row[: len(candidates[i])]
    return scores


def candidate_batches(
    inputs: Sequence[np.ndarray],
    candidates: Sequence[Sequence[np.ndarray]],
    *,
    batch_size: int,
    num_buckets: int,
    shards: int = 1,
    max_decoder_tokens: int = MAX_DECODER_TOKENS,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches that cover every row once, in few shapes, each row with all of its candidates.

    There are at most `num_buckets` shapes. Rows are parted by their number of candidates into at
    most half as many classes, each with a padded target length and as many padded source lengths
    as are left; most tasks have one number of candidates, and so one class.

    Args:
      inputs: source token ids of each row.
      candidates: target token ids of each candidate of each row.
      batch_size: rows of a batch at most.
      num_buckets: shapes, and so compiled programs, at most.
      shards: every batch is a multiple of it.
      max_decoder_tokens: what a shard of a batch may hold of padded candidate tokens; a batch of
        one row per shard may hold more.

    Yields:
      `(indices, encoder_input_tokens [rows, source], targets [rows, candidates, target])`, int32;
      rows beyond `len(indices)` and candidates beyond a row's own are zeros.
    """
    lengths = np.asarray([len(x) for x in inputs])
    counts = np.asarray([len(row) for row in candidates])
    longest = np.asarray([max(map(len, row)) for row in candidates])
    sizes = choose_buckets(counts, max(1, num_buckets // 2), multiple=1)
    size_ids = np.searchsorted(sizes, counts)
    for size_id, size in enumerate(sizes):
        chosen = np.flatnonzero(size_ids == size_id)
        sources = choose_buckets(lengths[chosen], num_buckets // len(sizes))
        width = round_up(int(longest[chosen].max()), 8)
        a_shard = max(1, min(batch_size // shards, max_decoder_tokens // (size * width)))
        rows = min(shards * a_shard, round_up(len(chosen), shards))
        # Beyond the last bucket are only rows of other classes.
        for bucket, indices in plan_batches(np.searchsorted(sources, lengths), chosen, rows):
            targets = np.zeros((rows, size, width), np.int32)
            for place, i in enumerate(indices):
                targets[place, : counts[i]] = pad(list(candidates[i]), int(counts[i]), width)
            yield indices, pad([inputs[i] for i in indices], rows, sources[bucket]), targets
