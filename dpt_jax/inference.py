"""Using trained prompts: evaluation on a task and prediction for text."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from dpt_jax import run_files
from dpt_jax.analysis.results import best_step
from dpt_jax.data.batches import round_up
from dpt_jax.data.kept_vocabulary import KeptVocabulary
from dpt_jax.data.vocabularies import check_vocabulary
from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.evaluation import rank_classification
from dpt_jax.evaluation.adapted import AdaptedGenerator
from dpt_jax.evaluation.evaluator import decode_text
from dpt_jax.evaluation.prefix_attention import attention_mass
from dpt_jax.interop.adapters import Adapter, load_adapter
from dpt_jax.interop.prefixes import FoldedPrefix
from dpt_jax.models import T5Config
from dpt_jax.paths import absolute, as_path
from dpt_jax.problems.folded import folded_model
from dpt_jax.problems.text import FINGERPRINT, Prepared, prepare
from dpt_jax.problems.text_attention import on_split
from dpt_jax.prompts import VanillaPrompt
from dpt_jax.run_files import numpy_checkpoints
from dpt_jax.training.checkpoints import Checkpoints
from dpt_jax.training.config import RunConfig
from dpt_jax.training.problem import TaskResult
from dpt_jax.training.state import merge_params

PromptArray = Float[np.ndarray, "length embed"]


def step_of_run(model_dir: str | os.PathLike, step: str = "best") -> int:
    """The step that `best`, `latest` or a number names among a run's saved prompts.

    Raises:
      InputError: when the folder is no run, or does not have that step.
    """
    saved = list(numpy_checkpoints(model_dir))
    if not saved:
        with contextlib.closing(Checkpoints(model_dir, create=False)) as checkpoints:
            saved = checkpoints.steps()
    return run_files.named_step(model_dir, step, saved, best_step)


def prepare_for(
    config: RunConfig, model_dir: str | os.PathLike | None, like: Prepared | None = None
) -> Prepared:
    """Prepares a configuration; of a run, on the backbone that it was trained on.

    Args:
      config: the model and the task.
      model_dir: the folder of the run whose prompt, or whose configuration, is used; None where
        there is no run.
      like: as for `prepare`.

    Raises:
      InputError: when another backbone stands where the run's was.
    """
    prepared = prepare(config, like=like)
    if model_dir is None:
        return prepared
    try:
        saved = run_files.read_json(
            as_path(model_dir) / run_files.IDENTITY, "Copy the run's folder again."
        )
    except FileNotFoundError:
        return prepared
    expected = saved.get(FINGERPRINT, prepared.fingerprint)
    if prepared.fingerprint != expected:
        path = config.initial_checkpoint_path
        where = "random weights" if path is None else absolute(path)
        raise InputError(
            f"{model_dir} was trained on another T5 than INITIAL_CHECKPOINT_PATH = {path!r} "
            f"({where}): {FINGERPRINT} is {expected} in its {run_files.IDENTITY}, but "
            f"{prepared.fingerprint} there. Set --gin.INITIAL_CHECKPOINT_PATH to where that T5 is "
            "now; a copy, or a conversion, will do."
        )
    return prepared


def with_trained(prepared: Prepared, model_dir: str | os.PathLike, step: int) -> None:
    """Puts what a run has trained of its T5 in the place of the frozen parameters.

    Nothing is read where it trained a prompt or a prefix alone, which is so unless it has neither
    or a `trainable` of its own.
    """
    config = prepared.config
    if config.trainable is None and not (config.prompt is None and config.prefix is None):
        return
    with contextlib.closing(Checkpoints(model_dir, create=False)) as checkpoints:
        trained = checkpoints.restore_params(step)
    of_t5 = {name: params for name, params in trained.items() if name not in ("prompt", "prefix")}
    prepared.placed = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding),
        merge_params(of_t5, prepared.placed),
        prepared.placed,
    )


def adapter_of_run(config: RunConfig, model_dir: str | os.PathLike, step: int) -> Adapter:
    """The prompt and the prefix that a run had at a step; without both, nothing."""
    if config.prompt is None and config.prefix is None:
        return Adapter()
    return load_adapter(run_files.numpy_checkpoint(model_dir, step), flag="MODEL_DIR")


def evaluate(
    prepared: Prepared,
    prompt: PromptArray | None,
    prefix: FoldedPrefix | None = None,
    scored: bool = True,
) -> list[TaskResult]:
    """Evaluates a folded prompt and prefix, or the model alone, on the configuration's task.

    Args:
      prepared: the model.
      prompt: the prompt.
      prefix: the prefix.
      scored: whether there are metrics, and not the answers alone.
    """
    config = dataclasses.replace(
        prepared.config,
        prompt=None if prompt is None else VanillaPrompt(*prompt.shape),
        prefix=None if prefix is None else prefix.module(prepared.config.model),
    )
    evaluator, params = prepare(config, like=prepared).evaluator, dict(prepared.placed)
    if scored:
        evaluator.check_metrics()
    if prompt is not None:
        params["prompt"] = {"prompt": prompt}
    if prefix is not None:
        params["prefix"] = dict(prefix.arrays)
    return evaluator(params, scored)


def prefix_attention(
    prepared: Prepared, adapter: Adapter, most_batches: int = 8
) -> dict[str, Float[np.ndarray, "layers heads"]]:
    """How much of its attention the model gives to a prefix, on the evaluation split's rows.

    Args:
      prepared: the model and the task.
      adapter: the prefix, and the prompt beside it where there is one.
      most_batches: how many batches of rows are looked at, at most.

    Returns:
      `attention_mass` of each stack, averaged over the batches.
    """
    looked_at, params = on_split(prepared, adapter, prepared.config.eval_split)
    data, rows = looked_at.data, np.arange(prepared.config.batch_size)
    with partitioning.activate(prepared.mesh):
        batches = (
            partitioning.put_batch(data.batch(i, rows), prepared.mesh)
            for i in range(min(most_batches, data.steps_per_epoch))
        )
        model = looked_at.folded_model
        found = [jax.device_get(attention_mass(model, params, batch)) for batch in batches]
    return jax.tree.map(lambda *batches: np.mean(batches, axis=0), *found)


class Answerer:
    """Generates and scores for rows of tokens on a model; compiled programs are kept."""

    def __init__(self, prepared: Prepared):
        """Takes the model; its weights are placed when they are first used."""
        self._prepared, self._config = prepared, prepared.config
        self._generators: dict[int, AdaptedGenerator] = {}
        self._scorers: dict[Any, Any] = {}

    def generate(
        self,
        tokens: Sequence[np.ndarray],
        adapters: Sequence[Adapter],
        max_new_tokens: int,
        num_beams: int,
        batch_size: int,
    ) -> list[np.ndarray]:
        """`AdaptedGenerator`, in batches of at most `batch_size` where the mesh allows."""
        size = self._rows(len(tokens), batch_size)
        if size not in self._generators:
            config, mesh = self._config, self._prepared.mesh
            self._generators[size] = AdaptedGenerator(config.model, mesh, size, config.num_buckets)
        placed = self._prepared.placed
        return self._generators[size](placed, tokens, adapters, max_new_tokens, num_beams)

    def score(
        self,
        tokens: Sequence[np.ndarray],
        candidates: Sequence[Sequence[np.ndarray]],
        adapter: Adapter,
        batch_size: int,
    ) -> list[np.ndarray]:
        """`rank_classification.score_candidates` with one adapter for all rows."""
        prompt, prefix, params = adapter.prompt, adapter.prefix, dict(self._prepared.placed)
        if prompt is not None:
            params["prompt"] = {"prompt": prompt}
        if prefix is not None:
            params["prefix"] = dict(prefix.arrays)
        form = (
            None if prompt is None else len(prompt),
            None if prefix is None else prefix.module(self._config.model),
        )
        if form not in self._scorers:
            model = folded_model(self._config.model, *form)
            self._scorers[form] = rank_classification.scorer(model, self._prepared.mesh)
        return rank_classification.score_candidates(
            functools.partial(self._scorers[form], params),
            tokens,
            candidates,
            mesh=self._prepared.mesh,
            batch_size=self._rows(len(tokens), batch_size),
            num_buckets=self._config.num_buckets,
        )

    def _rows(self, count: int, batch_size: int) -> int:
        """Rows of a batch: few shapes, and a share for every device."""
        shape = self._prepared.mesh.shape
        size = min(batch_size, 1 << (count - 1).bit_length())
        return round_up(size, shape["data"] * shape["fsdp"])


class Predictor:
    """Generates text for text, each row under one of several prompts, prefixes or both.

    Attributes:
      prompts: what stands under each name.
    """

    def __init__(
        self,
        prepared: Prepared,
        prompts: Mapping[str, Adapter | PromptArray | None],
        vocabulary: KeptVocabulary | None = None,
    ):
        """Takes what to generate with.

        Args:
          prepared: the model.
          prompts: folded prompts, or adapters, by name; None stands for the bare model.
          vocabulary: what the run's folder keeps; None asks the task, which takes SeqIO.

        Raises:
          InputError: when the vocabulary is not the model's, a prefix is another model's, or the
            mesh does not divide a batch.
        """
        rows, mesh = prepared.config.decode_batch_size, prepared.mesh
        partitioning.check_batch("EVAL_BATCH_SIZE", rows, mesh)
        self.prompts = {
            name: found if isinstance(found, Adapter) else Adapter(found)
            for name, found in prompts.items()
        }
        self._generate = AdaptedGenerator(
            prepared.config.model, mesh, rows, prepared.config.num_buckets
        )
        for name, adapter in self.prompts.items():
            self._generate.check(adapter, name)
        self._prepared = prepared
        self._vocabulary: Any = vocabulary
        if vocabulary is None:
            self._vocabulary = prepared.vocabulary
            self._add_eos = prepared.task.output_features["inputs"].add_eos
        else:
            config, self._add_eos = prepared.config, vocabulary.add_eos
            check_vocabulary(
                vocabulary,
                config.model,
                config.mixture_or_task_name,
                config.initial_checkpoint_path,
            )

    def __call__(
        self, texts: Sequence[str], prompt_names: Sequence[str], first_row: int = 1
    ) -> list[str]:
        """Greedy (or beam) outputs for `texts`, in their order.

        Args:
          texts: source texts.
          prompt_names: the prompt of each text.
          first_row: the number of the first text, for messages.

        Raises:
          InputError: for an unknown prompt or a text that is too long, with its row.
        """
        for row, name in enumerate(prompt_names, first_row):
            self._require(name, row)
        tokens = [self._tokenize(text, row) for row, text in enumerate(texts, first_row)]
        config = self._prepared.config
        outputs = self._generate(
            self._prepared.placed,
            tokens,
            [self.prompts[name] for name in prompt_names],
            config.task_feature_lengths["targets"],
            config.beam_size,
        )
        return [decode_text(self._vocabulary, row) for row in outputs]

    def check(self, text: str, prompt_name: str, row: int) -> None:
        """Raises for a row what calling with it would raise."""
        self._require(prompt_name, row)
        self._tokenize(text, row)

    def _require(self, name: str, row: int) -> None:
        if name not in self.prompts:
            raise InputError(
                f"Row {row} names the prompt {name!r}; there are {', '.join(self.prompts)}."
                f"{nearest_names(name, self.prompts)} Add it with --prompt NAME=PATH."
            )

    def _tokenize(self, text: str, row: int) -> np.ndarray:
        config = self._prepared.config
        ids = list(self._vocabulary.encode(text))
        if self._add_eos:
            ids.append(self._vocabulary.eos_id)
        limit = config.task_feature_lengths["inputs"]
        if len(ids) > limit:
            if config.overlength != "truncate":
                raise InputError(
                    f"Row {row} has {len(ids)} tokens, more than TASK_FEATURE_LENGTHS allows "
                    f"({limit}). Raise --gin.TASK_FEATURE_LENGTHS, or cut it with "
                    "--gin.OVERLENGTH=\"'truncate'\"."
                )
            ids = ids[: limit - 1] + ids[-1:]
        return np.asarray(ids, np.int32)


def load_prompts(sources: Mapping[str, str], model: T5Config) -> dict[str, Adapter]:
    """Reads prompts and prefixes by name; raises InputError where one does not fit the model."""
    layers = model.num_decoder_layers
    return {
        name: load_adapter(path, model.emb_dim, f"--prompt {name}=PATH", layers)
        for name, path in sources.items()
    }
