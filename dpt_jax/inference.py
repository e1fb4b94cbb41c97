"""Using trained prompts: evaluation on a task and prediction for text."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from dpt_jax import run_files
from dpt_jax.data.batches import evaluation_batches
from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.evaluation.evaluator import TaskResult, decode_text
from dpt_jax.evaluation.generation import Generator
from dpt_jax.interop import load_prompt
from dpt_jax.models import Transformer
from dpt_jax.models.network import abstract_variables
from dpt_jax.prompts import PromptPerRow, VanillaPrompt
from dpt_jax.run_files import numpy_checkpoints
from dpt_jax.training import setup, trainer
from dpt_jax.training.checkpoints import Checkpoints
from dpt_jax.training.config import RunConfig
from dpt_jax.training.state import Params, merge_params

PromptArray = Float[np.ndarray, "length embed"]


def step_of_run(model_dir: str | pathlib.Path, step: str = "best") -> int:
    """The step that `best`, `latest` or a number names among a run's saved prompts.

    Raises:
      InputError: when the folder is no run, or does not have that step.
    """
    saved = list(numpy_checkpoints(model_dir)) or Checkpoints(model_dir, create=False).steps()
    if not saved:
        raise InputError(f"{model_dir} holds no saved prompt; is it the MODEL_DIR of a run?")
    if step == "latest":
        return max(saved)
    if step == "best":
        best = run_files.read_summary(model_dir)["best_step"]
        return max(saved) if best is None else best
    if not step.isdigit() or int(step) not in saved:
        raise InputError(
            f"--step is {step!r}; {model_dir} has best, latest and {', '.join(map(str, saved))}."
        )
    return int(step)


@dataclasses.dataclass
class Backbone:
    """A frozen T5 on its devices, with the vocabulary of a task.

    Attributes:
      config: the run whose model, task and sizes are used.
      mesh: the devices.
      params: the frozen parameters.
      provider: the SeqIO task or mixture.
      vocabulary: its vocabulary.
    """

    config: RunConfig
    mesh: Mesh
    params: Params
    provider: Any
    vocabulary: Any

    @classmethod
    def load(cls, config: RunConfig) -> "Backbone":
        """Loads what `config` names; raises InputError as training does."""
        mesh = partitioning.make_mesh(config.mesh)
        partitioning.check_batch("EVAL_BATCH_SIZE", config.decode_batch_size, mesh)
        provider, vocabulary = setup.open_task(config)
        params = setup.frozen_of(config)
        shardings = partitioning.parameter_shardings(
            abstract_variables(Transformer(config.model)), mesh
        )
        placed = setup.place(params, shardings, config.frozen_dtype)
        return cls(config, mesh, placed, provider, vocabulary)

    def with_trained(self, model_dir: str | pathlib.Path, step: int) -> "Backbone":
        """The backbone with the parameters that a run without a prompt has trained."""
        trained = Checkpoints(model_dir, create=False).restore_params(step)
        flat = jax.tree.map(
            lambda new, old: jax.device_put(new, old.sharding),
            merge_params(trained, self.params),
            self.params,
        )
        return dataclasses.replace(self, params=flat)

    def evaluate(self, prompt: PromptArray | None) -> list[TaskResult]:
        """Evaluates a folded prompt, or the model without any, on the configuration's task."""
        model, params = Transformer(self.config.model), self.params
        if prompt is not None:
            model = Transformer(self.config.model, VanillaPrompt(*prompt.shape))
            params = params | {"prompt": {"prompt": prompt}}
        evaluator = trainer.make_evaluator(
            self.config, model, self.provider, self.vocabulary, self.mesh
        )
        evaluator.check_metrics()
        return evaluator(params)


class Predictor:
    """Generates text for text, each row under one of several prompts.

    Attributes:
      prompts: folded prompts by name; None stands for no prompt.
    """

    def __init__(self, backbone: Backbone, prompts: Mapping[str, PromptArray | None]):
        self.prompts = dict(prompts)
        self._backbone = backbone
        self._programs: dict[int, Generator] = {}

    def __call__(self, texts: Sequence[str], prompt_names: Sequence[str]) -> list[str]:
        """Greedy (or beam) outputs for `texts`, in their order.

        Args:
          texts: source texts.
          prompt_names: the prompt of each text.

        Raises:
          InputError: for an unknown prompt or a text that is too long, with its row from 1.
        """
        for row, name in enumerate(prompt_names, 1):
            if name not in self.prompts:
                raise InputError(
                    f"Row {row} names the prompt {name!r}; there are "
                    f"{', '.join(self.prompts)}.{nearest_names(name, self.prompts)} Add it with "
                    "--prompt NAME=PATH."
                )
        tokens = [self._tokenize(text, row) for row, text in enumerate(texts, 1)]
        outputs = [""] * len(texts)
        lengths = {
            name: 0 if prompt is None else len(prompt) for name, prompt in self.prompts.items()
        }
        # Prompts of one length share a batch, whatever their names.
        for length in sorted({lengths[name] for name in prompt_names}):
            rows = [i for i, name in enumerate(prompt_names) if lengths[name] == length]
            names = [prompt_names[i] for i in rows]
            found = self._generate([tokens[i] for i in rows], names, length)
            for i, text in zip(rows, found, strict=True):
                outputs[i] = text
        return outputs

    def _tokenize(self, text: str, row: int) -> np.ndarray:
        config, feature = self._backbone.config, self._backbone.provider.output_features["inputs"]
        ids = list(self._backbone.vocabulary.encode(text))
        if feature.add_eos:
            ids.append(self._backbone.vocabulary.eos_id)
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

    def _generate(
        self, tokens: list[np.ndarray], names: list[str], prompt_length: int
    ) -> list[str]:
        backbone = self._backbone
        outputs = [""] * len(tokens)
        size = backbone.config.decode_batch_size
        plan = evaluation_batches(tokens, size, backbone.config.num_buckets)
        for indices, batch in plan:
            params = backbone.params
            if prompt_length:
                # Padding rows repeat the last prompt; what they give is dropped.
                rows = [*indices] + [indices[-1]] * (size - len(indices))
                chosen = np.stack([np.asarray(self.prompts[names[i]]) for i in rows])
                params = params | {"prompt": {"prompts": chosen}}
            with partitioning.activate(backbone.mesh):
                placed = partitioning.put_batch({"tokens": batch}, backbone.mesh)
                generated = np.asarray(self._program(prompt_length)(params, placed["tokens"]))
            for i, row in zip(indices, generated, strict=False):
                outputs[i] = decode_text(backbone.vocabulary, row)
        return outputs

    def _program(self, prompt_length: int) -> Generator:
        if prompt_length not in self._programs:
            config = self._backbone.config
            prompt = None
            if prompt_length:
                size = config.decode_batch_size
                prompt = PromptPerRow(prompt_length, config.model.emb_dim, size)
            model = Transformer(config.model, prompt)
            self._programs[prompt_length] = Generator(
                model,
                self._backbone.mesh,
                config.task_feature_lengths["targets"],
                config.beam_size,
            )
        return self._programs[prompt_length]


def load_prompts(sources: Mapping[str, str], embed_dim: int) -> dict[str, PromptArray]:
    """Reads prompts by name; raises InputError where one does not fit the model's width."""
    return {
        name: load_prompt(path, embed_dim=embed_dim, flag=f"--prompt {name}=PATH")
        for name, path in sources.items()
    }
