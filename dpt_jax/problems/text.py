"""A frozen T5 and a SeqIO task, prepared once for training, evaluation, prediction and planning.

`prepare(config)` checks and finds; nothing large is read before it is asked for. Training hands
`Prepared.problem()` to the trainer, evaluation asks for `evaluator` and `placed`, `dpt plan` for
shapes and shardings alone, and the runs of a population share what they agree on.
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Int32

from dpt_jax import run_files
from dpt_jax.data import first_inputs, kept_vocabulary, pairs
from dpt_jax.data.batches import TrainData
from dpt_jax.data.examples import TaskExamples, checksum, load_split
from dpt_jax.data.folder_vocabulary import with_vocabulary
from dpt_jax.data.tasks import few_shot_ids, get_provider, get_vocabulary, parts
from dpt_jax.data.vocabularies import check_vocabulary
from dpt_jax.devices import agreement, partitioning
from dpt_jax.devices.placement import place
from dpt_jax.errors import InputError
from dpt_jax.evaluation.evaluator import Evaluator, summarized
from dpt_jax.evaluation.metrics import Metrics
from dpt_jax.files import atomic_folder
from dpt_jax.interop.adapters import Adapter, save_adapter
from dpt_jax.interop.prefixes import FoldedPrefix
from dpt_jax.models import T5Config, Transformer
from dpt_jax.models.attention_support import with_attention
from dpt_jax.models.network import abstract_variables, fold_prefix
from dpt_jax.models.residual_norm import residual_norm
from dpt_jax.prefixes import as_free
from dpt_jax.problems.described import (
    describe_method,
    describe_run,
    diagnostics,
    told_of_size,
)
from dpt_jax.problems.first_values import init_prefix, init_prompt, open_frozen
from dpt_jax.problems.folded import fold, folded_model_of
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.prompts import (
    NO_MODEL,
    bind_residual_norm,
    needs_residual_norm,
)
from dpt_jax.tensors import fingerprint
from dpt_jax.training import run_folder, trainer
from dpt_jax.training.config import RunConfig
from dpt_jax.training.problem import Evaluation, Folding, Problem
from dpt_jax.training.state import Params

# Under which name a run's identity has it.
FINGERPRINT = "backbone_fingerprint"
# Configurations that agree in these read the same rows, or are evaluated by the same programs.
_TASK = ("mixture_or_task_name", "mixture_or_task_module", "task_feature_lengths", "overlength")
_EVALUATION = (
    *_TASK,
    "model",
    "eval_split",
    "batch_size",
    "eval_batch_size",
    "num_buckets",
    "scoring",
    "beam_size",
)


def train(
    config: RunConfig, gin_config: Callable[[], str] = str, like: "Prepared | None" = None
) -> dict[str, Any]:
    """Prepares a run and trains it; arguments, result and errors are those of `trainer.train`.

    `like` is another configuration, as `prepare` takes it.
    """
    with agreement.raise_everywhere():
        problem = prepare(config, like=like).problem()
    return trainer.train(config, problem, gin_config)


def prepare(
    config: RunConfig, mesh: Mesh | AbstractMesh | None = None, like: "Prepared | None" = None
) -> "Prepared":
    """Prepares a configuration; every part of it is made when it is first asked for.

    Args:
      config: the run.
      mesh: the devices, which need not exist; None makes the mesh that `config` asks for.
      like: another one on the same mesh, with which to share what both have in common.

    Raises:
      InputError: when there is no such mesh.
    """
    if like is not None:
        return Prepared(config, like.mesh, like.made)
    return Prepared(config, partitioning.make_mesh(config.mesh) if mesh is None else mesh, {})


class Prepared:
    """A configuration on devices: the network, its parameters, the data and the evaluation.

    Attributes:
      config: the run.
      mesh: the devices, a `Mesh`, or an `AbstractMesh` where shapes are all that is asked for.
      made: what was made so far that another configuration may share.
    """

    def __init__(self, config: RunConfig, mesh: Any, made: dict[str, Any]):
        self.config, self.mesh, self.made = config, mesh, made

    def _shared(self, name: str, fields: Sequence[str], make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all configurations that agree in `fields`."""
        key = repr([name, *(getattr(self.config, field) for field in fields)])
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    @functools.cached_property
    def model(self) -> Transformer:
        """The network with the prompt and the prefix that are trained."""
        return Transformer(self.backbone_config, self.config.prompt, self.config.prefix)

    @functools.cached_property
    def backbone_config(self) -> T5Config:
        """The backbone's shape, with an attention that the mesh's devices have.

        Raises:
          InputError: when they do not have the one that is named.
        """
        if isinstance(self.mesh, AbstractMesh):
            return self.config.model
        prompt_length = 0 if self.config.prompt is None else self.config.prompt.length
        length = self.config.task_feature_lengths["inputs"] + prompt_length
        devices = list(self.mesh.devices.flat)
        # A process compiles for its own; one that plans has none of them.
        own = [d for d in devices if d.process_index == jax.process_index()]
        return with_attention(self.config.model, (own or devices)[0], length)

    @functools.cached_property
    def folded_model(self) -> Transformer:
        """The network as it is evaluated: prompt and prefix are plain arrays, whatever the method.

        `{"prompt": {"prompt": array}}` are its prompt's parameters.
        """
        return folded_model_of(dataclasses.replace(self.config, model=self.backbone_config))

    def shardings(self, mesh: Mesh) -> Params:
        """Where each of the model's parameters lives on a mesh."""
        return partitioning.parameter_shardings(abstract_variables(self.model), mesh)

    @functools.cached_property
    def backbone(self) -> Params:
        """The frozen T5's parameters, as tensors that are not read yet."""
        config = self.config
        seed = () if config.initial_checkpoint_path else ("random_seed",)
        return self._shared(
            "backbone",
            ("model", "initial_checkpoint_path", *seed),
            lambda: open_frozen(config.initial_checkpoint_path, config.model, config.random_seed),
        )

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum that tells this backbone from another."""
        return fingerprint(self.backbone)

    @functools.cached_property
    def placed(self) -> Params:
        """The frozen T5's parameters on their devices."""
        variables = abstract_variables(Transformer(self.config.model))
        shardings = partitioning.parameter_shardings(variables, self.mesh)
        return place(self.backbone, shardings, self.config.frozen_dtype)

    @functools.cached_property
    def task(self) -> Any:
        """The task or mixture, SeqIO's or of texts."""
        config = self.config
        found = get_provider(config.mixture_or_task_name, config.mixture_or_task_module)
        rows = config.model.vocab_size
        return with_vocabulary(found, config.initial_checkpoint_path, rows)

    @functools.cached_property
    def vocabulary(self) -> Any:
        """The task's vocabulary, which is the model's."""
        config, vocabulary = self.config, get_vocabulary(self.task)
        check_vocabulary(vocabulary, config.model, self.task.name, config.initial_checkpoint_path)
        return vocabulary

    @functools.cached_property
    def data(self) -> TrainData:
        """The training examples in this configuration's own order."""
        config = self.config
        tasks = self._shared(
            "training examples",
            (*_TASK, "train_split"),
            lambda: load_split(
                self.task,
                config.train_split,
                config.task_feature_lengths,
                config.overlength,
                together=True,
            ),
        )
        return TrainData.create(
            tasks,
            [rate for _, rate in parts(self.task)],
            config.batch_size,
            config.random_seed,
            config.num_buckets,
            config.balanced_batches,
        )

    @property
    def evaluator(self) -> Evaluator:
        """Evaluates `folded_model` on the configuration's task and split."""
        config = self.config
        partitioning.check_batch("EVAL_BATCH_SIZE", config.decode_batch_size, self.mesh)
        length = config.prompt and config.prompt.length
        shape = f"P = {length}, prefix {describe_method(config.prefix and as_free(config.prefix))}"
        return self._shared(f"evaluator, {shape}", _EVALUATION, self._make_evaluator)

    def _make_evaluator(self) -> Evaluator:
        config = self.config
        # Evaluation reads whole targets for its metrics; only the sources meet the model. It needs
        # all features of every row, so that every process reads the whole split.
        examples = load_split(
            self.task, config.eval_split, config.task_feature_lengths, config.overlength
        )
        tasks = {task.name: task for task, _ in parts(self.task)}
        return self._evaluator_of(tasks, examples)

    def _evaluator_of(
        self,
        providers: Mapping[str, Any],
        examples: Sequence[TaskExamples],
        metrics: Mapping[str, Metrics] | None = None,
    ) -> Evaluator:
        """An evaluator of `folded_model`; `Evaluator` tells the arguments."""
        config = self.config
        return Evaluator(
            self.folded_model,
            providers,
            examples,
            self.vocabulary,
            mesh=self.mesh,
            batch_size=config.decode_batch_size,
            num_buckets=config.num_buckets,
            max_decode_length=config.task_feature_lengths["targets"],
            beam_size=config.beam_size,
            scoring=config.scoring,
            metrics=metrics,
        )

    def problem(self) -> Problem:
        """The configuration as the trainer sees it; what can be wrong with it is found here.

        Raises:
          InputError: for input that cannot be used; nothing large has been read then.
        """
        config = self.config
        identity = describe_run(config, self._task_identity())
        run_folder.check_identity(config, identity, unknown=(FINGERPRINT,))
        partitioning.check_batch("BATCH_SIZE", config.batch_size, self.mesh, config.microbatches)
        partitioning.check_batch("EVAL_BATCH_SIZE", config.decode_batch_size, self.mesh)
        _ = self.vocabulary  # What is wrong with the task is said first.
        params = dict(self.backbone)
        identity |= {FINGERPRINT: self.fingerprint}
        run_folder.check_identity(config, identity)
        params |= self.initial()
        data, evaluator = self.data, None
        if config.eval_period != 0:
            evaluator = self.evaluator
            evaluator.check_metrics(config.best_metric)
        return Problem(
            name=config.mixture_or_task_name,
            params=params,
            trainable=config.trainable_pattern,
            loss_fn=make_loss_fn(self.model, config.z_loss),
            data=data,
            identity=identity,
            description=data.describe() + told_of_size(config.prompt),
            shardings=self.shardings,
            evaluate=None if evaluator is None else functools.partial(self._evaluate, evaluator),
            export=self._export if config.prompt or config.prefix else None,
            diagnostics=functools.partial(diagnostics, config.prompt),
            files=self._files() | self._start(),
            folding=self._folding(),
            facts=lambda: {
                "examples": checksum([*data.tasks, *(evaluator.examples if evaluator else [])])
            },
        )

    def _folding(self) -> Folding:
        """See `Problem.folding`."""
        config = self.config
        return Folding(
            functools.partial(fold, self.model),
            make_loss_fn(self.folded_model, config.z_loss),
            self.data.blanks,
            config.model.dropout_rate > 0,
        )

    def residual_norm(self) -> float:
        """The norm of the backbone's residual stream on the task's first inputs, measured once.

        Raises:
          InputError: there is no pretrained model, or its norm is of no use.
        """
        if self.config.initial_checkpoint_path is None:
            raise InputError(NO_MODEL)
        text = self._first_inputs()
        told = "no text" if text is None else zlib.crc32(text.tobytes())
        return self._shared(
            f"residual norm, {told}",
            ("model", "initial_checkpoint_path"),
            lambda: residual_norm(self.config.model, self.backbone, text),
        )

    def _first_inputs(self) -> Int32[np.ndarray, "rows length"] | None:
        """Some of the training text; None where there is none yet."""
        config = self.config
        if config.mixture_or_task_name == pairs.NAME:
            return None  # A model in a notebook, before it has seen any pairs.
        return first_inputs.of_provider(self.task, config.task_feature_lengths, config.train_split)

    def initial(self) -> Params:
        """The first parameters of the prompt and the prefix, drawn with the run's seed.

        Raises:
          InputError: when an initializer cannot serve this prompt or prefix.
        """
        config = self.config
        initial: Params = {}
        drawn_with = self.backbone, self.vocabulary, config.random_seed
        if config.prompt is not None:
            prompt = bind_residual_norm(config.prompt, self.residual_norm)
            initial["prompt"] = init_prompt(prompt, *drawn_with)
        if config.prefix is not None:
            initial["prefix"] = init_prefix(config.prefix, config.model, *drawn_with)
        return initial

    def _files(self) -> dict[str, Any]:
        """See `Problem.files`."""
        files = kept_vocabulary.files_of(self.task.output_features["inputs"])
        if drawn := few_shot_ids(task.name for task in self.data.tasks):
            files[run_files.FEW_SHOT] = drawn
        return files

    def _start(self) -> dict[str, Any]:
        """What was measured for the first values, as a file."""
        if not needs_residual_norm(self.config.prompt):
            return {}
        return {run_files.START: {"residual_norm": self.residual_norm()}}

    @functools.cached_property
    def _fold_prefix(self) -> Callable[[Params], Params]:
        everywhere = partitioning.replicated(self.mesh)
        return jax.jit(functools.partial(fold_prefix, self.model), out_shardings=everywhere)

    def _fold(self, params: Params) -> Params:
        """The parameters of `folded_model`'s prompt and prefix, in this host's memory."""
        folded: Params = {}
        if self.config.prompt is not None:
            folded["prompt"] = {"prompt": self.config.prompt.fold(jax.device_get(params["prompt"]))}
        if self.config.prefix is not None:
            folded["prefix"] = jax.device_get(self._fold_prefix(params))
        return folded

    def _evaluate(self, evaluator: Evaluator, params: Params) -> Evaluation:
        """Evaluates merged parameters, folded as they are when they have been exported."""
        results = evaluator(params | self._fold(params))
        return summarized(results, self.config.mixture_or_task_name, self.config.best_metric)

    def adapter(self, params: Params) -> tuple[Adapter, Params]:
        """The folded prompt and prefix of merged parameters, and what they are folded from.

        Both are in this host's memory.
        """
        folded, prefix = self._fold(params), None
        if self.config.prefix is not None:
            prefix = FoldedPrefix(folded["prefix"], self.config.prefix.position_bias)
        adapter = Adapter(folded["prompt"]["prompt"] if "prompt" in folded else None, prefix)
        return adapter, jax.device_get({name: params[name] for name in folded})

    def _export(self, params: Params) -> Callable[[pathlib.Path], None]:
        """See `Problem.export`."""
        adapter, own = self.adapter(params)

        def write(folder: pathlib.Path) -> None:
            if adapter.prefix is None:
                save_adapter(folder, adapter, own)
                return
            # A prefix and a prompt are one result.
            with atomic_folder(folder, last=run_files.PREFIX, replace=True) as whole:
                save_adapter(whole, adapter, own)

        return write

    def _task_identity(self) -> dict[str, Any]:
        """What tells the training examples from others."""
        config = self.config
        return {
            "mixture_or_task_name": config.mixture_or_task_name,
            "task_feature_lengths": dict(config.task_feature_lengths),
            "train_split": config.train_split,
            "overlength": config.overlength,
        }
