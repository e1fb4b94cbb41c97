"""A frozen T5 with a prompt: trained, asked and saved."""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from dpt_jax import run_files
from dpt_jax.analysis.history import History, read_history
from dpt_jax.data.pairs import read_pairs, read_texts
from dpt_jax.errors import InputError, Stopped, arguments_for
from dpt_jax.evaluation.text_metrics import MetricFn, TextMetrics
from dpt_jax.inference import Answerer
from dpt_jax.interop.adapters import Adapter, load_adapter, load_own
from dpt_jax.interop.prefix_exports import export_prefix
from dpt_jax.interop.prompt_exports import FORMATS, export_prompt
from dpt_jax.models import T5Config
from dpt_jax.prefixes import Prefix
from dpt_jax.problems.config_text import as_gin
from dpt_jax.problems.continued import PromptLike
from dpt_jax.prompted_t5 import fitting, requests
from dpt_jax.prompted_t5.opening import Pretrained, moved, open_pretrained, positive
from dpt_jax.prompts import SoftPrompt
from dpt_jax.training import trainer
from dpt_jax.training.loggers import Callback
from dpt_jax.training.recipes import Optimizer, Rate

_COLUMNS = ("inputs", "targets")
# What messages call the settings that a command would have as gin macros. Those of a method's are
# its class's.
_ARGUMENTS = {
    "BATCH_SIZE": "batch_size",
    "BOTTLENECK": "bottleneck",
    "EARLY_STOPPING_PATIENCE": "early_stopping_patience",
    "EMBED_DIM": "embed_dim",
    "EPOCHS": "epochs",
    "EVAL_PERIOD": "eval_period",
    "FROZEN_DTYPE": "dtype",
    "INITIAL_CHECKPOINT_PATH": "folder",
    "LEARNING_RATE_PEAK": "learning_rate",
    "MESH": "mesh",
    "MICROBATCHES": "microbatches",
    "MODEL_DIR": "model_dir",
    "OPTIMIZER": "optimizer",
    "OVERLENGTH": "overlength",
    "PREFIX_LAYERS": "layers",
    "PREFIX_LENGTH": "length",
    "PREFIX_STACKS": "stacks",
    "PROMPT_LENGTH": "length",
    "RANDOM_SEED": "seed",
    "TRAIN_STEPS": "steps",
    "prefixes.METHOD.position_bias": "position_bias",
}


class PromptedT5:
    """A frozen T5 with a prompt or a prefix: train it, ask it, save what was trained.

    Example::

        t5 = PromptedT5.from_pretrained("t5-small/", DecomposedPrompt(length=100, bottleneck=10))
        t5.fit([("is it red ?", "yes"), ("is it blue ?", "no")], epochs=10)
        t5.generate(["is it red ?"])
        t5.save_prompt("red")

    `fit` and `dpt train` give the same prompt, bit for bit. The default recipe is that of Xiao et
    al., "Decomposed Prompt Tuning", Findings of EMNLP 2023, section 3.
    """

    def __init__(self, pretrained: Pretrained):
        """Takes its parts; `from_pretrained` makes them."""
        self._pretrained, self._prepared = pretrained, pretrained.prepared
        # What the T5 is given now, folded, and the parameters that it was folded from.
        self._adapter, self._own = pretrained.adapter, dict(pretrained.own)
        self._origin = "" if self._adapter is None else "It was loaded by dpt-jax."
        self._answerer = Answerer(self._prepared)

    @classmethod
    @arguments_for(_ARGUMENTS)
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        method_or_prompt: SoftPrompt | Prefix | PromptLike | None = None,
        prompt: PromptLike | None = None,
        *,
        tokenizer: str | os.PathLike | None = None,
        mesh: Sequence[int] = (-1, 1, 1),
        dtype: str | None = None,
        max_source_length: int | None = None,
        overlength: str | None = None,
    ) -> "PromptedT5":
        """Opens a pretrained T5; its weights are read when they are first used.

        Example::

            PromptedT5.from_pretrained("t5-large/", VanillaPrompt(length=20))  # to be trained
            PromptedT5.from_pretrained("t5-large/", prompt="rte")              # trained before

        Args:
          folder: a T5 of Hugging Face, of `dpt convert`, or of T5X, or the URL of the last.
          method_or_prompt: what `fit` is to train, such as `DecomposedPrompt(length=100,
            bottleneck=10)`, whose width is the model's; or the same as `prompt`. With neither, the
            T5 answers as it is.
          prompt: what was trained before: what `save_prompt` wrote, a run's folder, a PEFT adapter,
            any other file that `dpt inspect` knows, or a float array `[P, D]`. `fit` goes on from a
            decomposed prompt's factors where they are there; otherwise every number of the prompt
            or prefix is a parameter of its own.
          tokenizer: takes the place of the folder's own, with the same pieces where the folder has
            some: a SentencePiece file, a `tokenizer.json` (read by the package tokenizers), or
            "bytes" for ByT5.
          mesh: sizes of the device mesh's (data, fsdp, model) axes; -1 takes what is left.
          dtype: "float32" or "bfloat16", of the activations; "bfloat16" stores the frozen weights
            so, too. None is float32 with the weights as they are stored.
          max_source_length: longest input in tokens, end token included; None is the recipe's in
            `fit`, which `generate` keeps to afterwards, and otherwise 512.
          overlength: what to do with longer ones, "error" or "truncate", in `fit` also "drop"; None
            is the recipe's in `fit` and afterwards, and otherwise "error".

        Raises:
          InputError: when the folder is no T5 or brings no tokenizer, the tokenizer or the prompt
            is another model's, or the mesh does not fit the devices.
        """
        return cls(
            open_pretrained(
                folder,
                method_or_prompt,
                prompt,
                tokenizer=tokenizer,
                mesh=mesh,
                dtype=dtype,
                max_source_length=max_source_length,
                overlength=overlength,
            )
        )

    @property
    def method(self) -> SoftPrompt | Prefix | None:
        """The prompt that `fit` trains, or where there is none the prefix; None without either."""
        config = self._prepared.config
        return config.prefix if config.prompt is None else config.prompt

    @property
    def config(self) -> T5Config:
        """The T5's sizes and the dtype of its activations."""
        return self._prepared.config.model

    @property
    def prompt(self) -> Float32[np.ndarray, "length embed"] | None:
        """The folded prompt in use, float32 `[P, D]`; None where there is none."""
        return self._current().prompt

    @arguments_for(_ARGUMENTS)
    def fit(
        self,
        pairs: Iterable[Any],
        *,
        epochs: int | None = None,
        steps: int | None = None,
        eval_pairs: Iterable[Any] | None = None,
        recipe: str = "paper",
        optimizer: Optimizer | None = None,
        learning_rate: Rate | None = None,
        batch_size: int | None = None,
        metric: str | MetricFn = "exact_match",
        model_dir: str | os.PathLike | None = None,
        mesh: Sequence[int] | None = None,
        dtype: str | None = None,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        columns: Sequence[str] = _COLUMNS,
        max_target_length: int | None = None,
        eval_period: int | str | None = None,
        early_stopping_patience: int | None = None,
        microbatches: int = 1,
    ) -> History:
        """Trains the prompt or prefix; the best step's, or else the last one's, is in use then.

        Every call begins at the method's first values, drawn with `seed`. With a `model_dir` that
        holds this very run it goes on where that was left. The bits are those of `dpt train` on a
        task of the same rows.

        Example::

            t5.fit(rows, epochs=20, eval_pairs=held_out, columns=("question", "answer"))
            t5.fit(pairs, steps=300, optimizer=optax.lion, learning_rate=1e-3)

        Args:
          pairs: any iterable of `(input, target)`, two texts; or of mappings, such as rows of
            Hugging Face's `datasets`, or a pandas frame, with the two `columns`.
          epochs: passes over the pairs; None is the recipe's, 100 in the paper.
          steps: updates; takes precedence over `epochs`.
          eval_pairs: pairs to evaluate on by generation; without them the last step is kept, and
            `metric`, `eval_period` and `early_stopping_patience` are refused.
          recipe: where what is not given comes from: "paper", or another file of
            `gin_configs/recipes`, "released" or "fast". With "fast", first values that were left at
            the method's defaults start at a norm that is measured on the T5.
          optimizer: a function of a learning rate, such as `optax.adamw`, or what one has made,
            such as `optax.adamw(0.1)`, whose rate the log cannot show and has as 0.
          learning_rate: the peak of the recipe's schedule, or an optax schedule.
          batch_size: pairs an update, over all devices; None is the recipe's.
          metric: "exact_match", "token_f1", or a function of `(targets, predictions)`, two lists of
            texts, that gives a number, or numbers by name of which the first decides; higher is
            better.
          model_dir: the run's folder, as `dpt train` writes it; None trains in a temporary one.
          mesh: see `from_pretrained`; None keeps it.
          dtype: see `from_pretrained`; None keeps it.
          seed: of the first values, the order of the pairs and dropout.
          callbacks: each is called as `callback(step, split, metrics)` with every line of the log;
            the split is "train", "validation" or "prompt", what the prompt says of itself.
          columns: names of the input's and the target's column, where rows have named columns.
          max_target_length: longest target in tokens, end token included; None is that of the
            longest one. Evaluation generates so many tokens.
          eval_period: updates between evaluations, or "epoch"; None is the recipe's.
          early_stopping_patience: evaluations without a new best after which training stops.
          microbatches: parts in which a batch is run to save memory; the same result, but that each
            draws its own dropout.

        Returns:
          The losses and metrics by step, from the run's first step; `History.plot` draws them.

        Raises:
          InputError: for input that cannot be used: a row that is no pair, no rows, texts that are
            too long, an unknown recipe or metric, a `model_dir` of another run.
          NonFiniteLossError: when the loss is not finite.
          Stopped: after SIGTERM or SIGINT, once the state was saved; the prompt is in use then.
        """
        if self.method is None:
            raise InputError(
                "There is nothing to train: from_pretrained was given neither a method nor a "
                "prompt. Give it one, such as dpt_jax.DecomposedPrompt(100, bottleneck=10)."
            )
        training = fitting.Training(
            recipe=recipe,
            optimizer=optimizer,
            learning_rate=learning_rate,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            max_source_length=self._pretrained.max_source_length,
            max_target_length=max_target_length,
            overlength=self._pretrained.overlength,
            eval_period=eval_period,
            early_stopping_patience=early_stopping_patience,
            microbatches=microbatches,
            kept=model_dir is not None,
        )
        metrics, rows, held_out = TextMetrics(metric), read_pairs(pairs, columns), None
        if eval_pairs is not None:
            held_out = read_pairs(eval_pairs, columns, "eval_pairs")
        else:
            unused = {
                "metric": metric != "exact_match",
                "eval_period": bool(eval_period),
                "early_stopping_patience": early_stopping_patience is not None,
            }
            if given := [name for name, is_given in unused.items() if is_given]:
                raise InputError(
                    f"{' and '.join(given)} would not be used without evaluation. Set eval_pairs=."
                )
        self._move(mesh, dtype)
        with fitting.run_folder(model_dir) as folder:
            run = fitting.prepare_run(self._prepared, folder, training, rows, held_out, metrics)
            try:
                trainer.train(
                    run.config,
                    run.problem(),
                    functools.partial(as_gin, run.config),
                    frozen=self._prepared.placed,
                    callbacks=callbacks,
                )
            except Stopped:
                self._use(run_files.kept_checkpoint(folder))
                raise
            self._use(run_files.kept_checkpoint(folder))
            self._prepared.config = dataclasses.replace(
                self._prepared.config,
                task_feature_lengths=run.config.task_feature_lengths,
                overlength=run.config.overlength,
            )
            return read_history(folder)

    @arguments_for(_ARGUMENTS)
    def generate(
        self,
        texts: Iterable[str],
        max_new_tokens: int = 8,
        num_beams: int = 1,
        prompts: Mapping[str, PromptLike | None] | None = None,
        names: Iterable[str] | None = None,
        *,
        batch_size: int = 16,
    ) -> list[str]:
        """Answers texts, greedily or by beam search; before `fit` with the method's first values.

        Example::

            t5.generate(["is it red ?"])
            t5.generate(texts, prompts={"rte": "rte", "cb": "runs/cb"}, names=["rte", "cb"])

        Args:
          texts: the inputs.
          max_new_tokens: longest answer in tokens.
          num_beams: beams; 1 is greedy.
          prompts: other prompts or prefixes than the one in use, by name, of any kinds and lengths,
            or None for the bare T5; those of one length share their batches.
          names: for each text the one to use; may be left out where there is only one.
          batch_size: texts at once.

        Returns:
          The answers, in the order of the texts.

        Raises:
          InputError: for what is no text or too long, with its row or the count, an unknown name,
            or a prompt of another model.
        """
        found = read_texts(texts)
        max_new_tokens = positive("max_new_tokens", max_new_tokens)
        num_beams, batch_size = positive("num_beams", num_beams), positive("batch_size", batch_size)
        if prompts is not None:
            adapters = requests.adapters_of(len(found), prompts, names, self.config)
        elif names is not None:
            raise InputError("names are given, but no prompts that have them. Set prompts=.")
        else:
            adapters = [self._current()] * len(found)
        if not found:
            return []
        generated = self._answerer.generate(
            requests.tokens_of(found, self._prepared),
            adapters,
            max_new_tokens,
            num_beams,
            batch_size,
        )
        return [self._prepared.vocabulary.decode(row.tolist()) for row in generated]

    @arguments_for(_ARGUMENTS)
    def score(
        self,
        texts: Iterable[str],
        candidates: Iterable[str] | Iterable[Iterable[str]],
        *,
        batch_size: int = 16,
    ) -> list[Float32[np.ndarray, "candidates"]]:
        """How probable candidates are as answers: rank classification.

        Example::

            scores = t5.score(["is it red ?"], ["yes", "no"])
            ["yes", "no"][scores[0].argmax()]

        Args:
          texts: the inputs.
          candidates: the answers that every text admits, or a list of them for each text.
          batch_size: texts at once, at most.

        Returns:
          For every text the natural logarithm of each candidate's probability, float32: the sum
          over its tokens, the end token included, not divided by their number.

        Raises:
          InputError: as `generate`, or where a text has no candidates.
        """
        batch_size = positive("batch_size", batch_size)
        found = read_texts(texts)
        answers = requests.candidates_of(len(found), candidates, self._prepared.vocabulary)
        if not found:
            return []
        tokens = requests.tokens_of(found, self._prepared)
        return self._answerer.score(tokens, answers, self._current(), batch_size)

    @arguments_for(_ARGUMENTS)
    def evaluate(
        self,
        pairs: Iterable[Any],
        metric: str | MetricFn = "exact_match",
        *,
        columns: Sequence[str] = _COLUMNS,
        max_new_tokens: int | None = None,
        num_beams: int = 1,
        batch_size: int = 16,
    ) -> dict[str, float]:
        """Measures the answers to pairs, by generation.

        Example::

            t5.evaluate(held_out)  # {"exact_match": 0.93}

        Args:
          pairs: as in `fit`.
          metric: as in `fit`.
          columns: as in `fit`.
          max_new_tokens: longest answer in tokens; None is that of the longest target.
          num_beams: beams; 1 is greedy.
          batch_size: texts at once.

        Returns:
          Numbers by name.

        Raises:
          InputError: as `fit` and `generate`.
        """
        metrics, rows = TextMetrics(metric), read_pairs(pairs, columns)
        if max_new_tokens is None:
            max_new_tokens = fitting.longest_target(self._prepared.vocabulary, rows)
        inputs, targets = zip(*rows, strict=True)
        answers = self.generate(inputs, max_new_tokens, num_beams, batch_size=batch_size)
        return metrics.measure(list(targets), answers)

    @arguments_for(_ARGUMENTS)
    def save_prompt(self, path: str | os.PathLike, format: str | None = None) -> None:
        """Writes the prompt or prefix in use, with a README on how to load it.

        Example::

            t5.save_prompt("rte")                   # rte/prompt.npy, its factors, rte/README.md
            t5.save_prompt("rte.npy")               # one array
            t5.save_prompt("rte-peft", format="peft")

        Args:
          path: a folder, whose earlier export is replaced; or for a prompt a file that ends in
            `.npy` or `.safetensors`.
          format: "npy", "safetensors" or "peft"; None is that of the file, or "npy".

        Raises:
          InputError: when there is no prompt, the format does not exist or has no place for it, the
            folder holds other files, or the place cannot be written.
        """
        adapter = self._current()
        suffix = os.path.splitext(os.fspath(path))[1].removeprefix(".")
        format = format or (suffix if suffix in FORMATS else "npy")
        if format not in FORMATS:
            raise InputError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}.")
        how = format, self._pretrained.base, self._origin, {"path": "path", "format": "format"}
        try:
            if adapter.prefix is not None:
                export_prefix(path, adapter, self._own, *how)
            elif adapter.prompt is not None:
                export_prompt(path, adapter.prompt, self._own.get("prompt"), *how)
            else:
                raise InputError("There is no prompt to save: from_pretrained was given none.")
        except OSError as error:
            raise InputError(f"path = {os.fspath(path)} cannot be written: {error}.") from error

    def __repr__(self) -> str:
        """What it is made of, in a line."""
        path = self._prepared.config.initial_checkpoint_path
        return f"PromptedT5({path!r}, {type(self.method).__name__ if self.method else None})"

    def _current(self) -> Adapter:
        """What the T5 is given; the method's first values until something is trained."""
        if self._adapter is None:
            prepared, initial = self._prepared, self._prepared.initial()
            self._adapter, self._own = prepared.adapter(prepared.placed | initial)
            self._origin = "It has not been trained."
            if self.method is not None:
                name = type(self.method).__name__
                logging.warning("Nothing is trained yet: the %s is as it starts.", name)
        return self._adapter

    def _use(self, folder: Any) -> None:
        """Takes what a run has saved, where it has."""
        if folder is not None:
            self._adapter, self._own = load_adapter(folder), load_own(folder)
            self._origin = "It was trained by dpt-jax."

    def _move(self, mesh: Sequence[int] | None, dtype: str | None) -> None:
        """Has the frozen weights in another place or dtype from here on, where they are not."""
        self._prepared, changed = moved(self._prepared, mesh, dtype)
        if changed:
            self._answerer = Answerer(self._prepared)
