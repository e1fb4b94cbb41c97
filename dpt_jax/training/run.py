"""One run as it goes: its state, its best evaluation, and the files that it writes."""

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dpt_jax import run_files
from dpt_jax.devices import agreement, partitioning
from dpt_jax.devices.placement import place
from dpt_jax.errors import InputError, NonFiniteLossError, Stopped
from dpt_jax.files import json_ready, write_json, write_json_lines
from dpt_jax.locks import Lock
from dpt_jax.paths import as_path
from dpt_jax.progress import Progress
from dpt_jax.training import checkpoints
from dpt_jax.training.config import TrainingConfig
from dpt_jax.training.loggers import Callback, MetricsLog, Silent
from dpt_jax.training.problem import Problem, TaskResult
from dpt_jax.training.state import Params, make_state, merge_params, split_params
from dpt_jax.training.step import jit_train_step


@dataclasses.dataclass
class BestSoFar:
    """The best evaluation of a run; part of every checkpoint."""

    step: int | None = None
    value: float | None = None
    metrics: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    evaluations_since: int = 0

    def update(self, step: int, value: float, results: Sequence[TaskResult]) -> None:
        """Takes note of an evaluation; on a tie the earlier step stays the best."""
        # A metric may be undefined (not a number), and then any other value is better.
        if self.value is None or math.isnan(self.value) or value > self.value:
            self.step, self.value, self.evaluations_since = step, value, 0
            self.metrics = {result.task: result.metrics for result in results}
        else:
            self.evaluations_since += 1


class Run:
    """The mutable part of a run: state, best evaluation, open files.

    `loop` takes its steps; `dpt_jax.sweeps.population` takes those of several runs together.
    """

    def __init__(
        self,
        config: TrainingConfig,
        problem: Problem,
        mesh: Mesh,
        frozen: Params | None = None,
        lock: Lock | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        """Takes the run up where its folder left it.

        Args:
          config: how to train.
          problem: what to train.
          mesh: the devices.
          frozen: the frozen parameters, where they are on their devices already.
          lock: what keeps other runs out of the folder.
          callbacks: each is called with every line of the log, in the process that writes it.
        """
        self.config, self.problem, self.mesh, self.lock = config, problem, mesh, lock
        self.callbacks = callbacks
        # The process that writes what is written once, and talks.
        self.first = agreement.is_first()
        steps_per_epoch = problem.data.steps_per_epoch
        self.total_steps = config.total_steps(steps_per_epoch)
        asked = config.eval_period
        self.eval_period = steps_per_epoch if isinstance(asked, str) else asked
        if problem.evaluate is None:
            self.eval_period = 0
        self.save_period = config.checkpoint_period or self.eval_period or steps_per_epoch
        self.optimizer, self.learning_rate = config.make_optimizer(self.total_steps)

        shardings = partitioning.shardings_of(problem.params, problem.shardings, mesh)
        trainable, stored = split_params(problem.params, problem.trainable)
        train_shardings, frozen_shardings = split_params(shardings, problem.trainable)
        if frozen is None:
            frozen = place(stored, frozen_shardings, config.frozen_dtype)
        self.frozen = frozen
        self.state = make_state(
            place(trainable, train_shardings),
            train_shardings,
            self.optimizer,
            config.random_seed,
            mesh,
        )
        self.trainable_parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        self.train_step = jit_train_step(
            problem.loss_fn,
            self.optimizer,
            config.microbatches,
            jax.tree.map(lambda x: x.sharding, self.state),
            mesh,
        )
        self.best = BestSoFar()
        self.train_seconds = 0.0
        # That of the newest line of the log.
        self.loss: float | None = None
        # Metrics of the steps since the last line of the log, so that a run which a signal stops
        # between two lines goes on to write the lines of an unbroken one.
        self.unlogged: dict[int, dict[str, Any]] = {}
        self.checkpoints = checkpoints.Checkpoints(config.model_dir)
        self.saved_step = self.checkpoints.latest_step()
        if self.saved_step is not None:
            self.state, progress = self.checkpoints.restore(
                checkpoints.abstract(self.state), self.saved_step
            )
            self.best = BestSoFar(**progress["best"])
            self.train_seconds = progress["train_seconds"]
            self.unlogged = {int(step): m for step, m in progress["unlogged"].items()}

    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return int(self.state.step) >= self.total_steps or self.has_plateaued()

    def already_finished(self) -> dict[str, Any]:
        """Says so, and clears away what a run killed in its last moments left to prune."""
        if self.first:
            print(
                f"{self.config.model_dir} is finished: step {int(self.state.step)} of "
                f"{self.total_steps}{', stopped early' if self.has_plateaued() else ''}. Nothing "
                "to do; raise --gin.TRAIN_STEPS or --gin.EPOCHS to train on.",
                file=sys.stderr,
            )
        self._prune()
        self.checkpoints.close()
        try:
            kept = run_files.read_summary(self.config.model_dir)
        except InputError:
            return self.summary()  # It was deleted or damaged; the checkpoint has it all.
        # A run that was stopped may be finished by fewer steps, or by less patience; and one that
        # was to go on may have been killed between its last checkpoint and the summary.
        is_of_this = kept["last_step"] == int(self.state.step) and run_files.is_finished(kept)
        return kept if is_of_this else self.summary()

    def loop(self) -> dict[str, Any]:
        """Trains from the state's step to the last one."""
        start = int(self.state.step)
        self.open(Progress("step", start, unit="steps") if self.first else Silent())
        self._announce(start)
        rows = partitioning.process_rows(self.mesh, self.config.batch_size)
        try:
            with agreement.stop_signals() as received:
                for step in range(start + 1, self.total_steps + 1):
                    if self.has_plateaued():
                        self.progress.say(
                            f"stopped early: {self.best.evaluations_since} evaluations without "
                            f"improvement over step {self.best.step}"
                        )
                        break
                    batch = partitioning.put_batch(
                        self.problem.data.batch(step - 1, rows), self.mesh
                    )
                    self.state, metrics = self.train_step(self.state, self.frozen, batch)
                    # Asked once: a signal may come at any line below.
                    stop = agreement.should_stop(step, received)
                    self.after_step(step, metrics, stop)
                    if stop and not self.is_finished():
                        raise Stopped(received[0] if received else signal.SIGTERM, step)
            return self.summary()
        finally:
            self.progress.close()
            self.close()

    def open(self, progress: Any, share: float = 1.0) -> None:
        """Opens the log; of the time from here on, `share` counts as this run's."""
        self.log: MetricsLog | Silent = Silent()
        if self.first:
            step = int(self.state.step)
            logged = min(self.unlogged, default=step + 1) - 1
            self.log = MetricsLog(self.config.model_dir, step, self.callbacks, logged)
        self.progress = progress
        self._share, self._began, self._before = share, time.monotonic(), self.train_seconds

    def close(self) -> None:
        """Closes the log and the checkpoints."""
        self.log.close()
        self.checkpoints.close()

    def after_step(self, step: int, metrics: dict[str, Any], stop: bool = False) -> None:
        """Logs, evaluates and saves as is due, once `state` is that of `step`.

        Args:
          step: updates made.
          metrics: the step's, as `make_train_step` gives them; anything that `float` takes.
          stop: saves in any case, as the run is about to be stopped.

        Raises:
          NonFiniteLossError: when the loss is not finite, at this step or at one before it.
        """
        self.unlogged[step] = metrics
        # The newest step is still being computed; those before it are done.
        self._check_finite({s: m for s, m in self.unlogged.items() if s < step})
        last = step == self.total_steps
        evaluates = bool(self.eval_period) and (step % self.eval_period == 0 or last)
        saves = evaluates or step % self.save_period == 0 or last
        if step % self.config.log_period == 0 or saves:
            self._log_metrics(self.unlogged)
            self.unlogged = {}
        if evaluates:
            self._evaluate(step)
        if saves or stop:
            self._check_finite(self.unlogged)
            self.train_seconds = self._before + self._share * (time.monotonic() - self._began)
            self._save(step)

    def _announce(self, start: int) -> None:
        frozen = sum(x.size for x in jax.tree.leaves(self.frozen))
        config, length = self.config, ""
        if config.train_steps and config.epochs:
            length = f"TRAIN_STEPS = {config.train_steps} is taken, not EPOCHS = {config.epochs}\n"
        self.progress.say(
            f"{self.problem.name}: {self.problem.description}\n{length}"
            f"{self.trainable_parameters:,} trainable and {frozen:,} frozen parameters; "
            f"mesh {dict(self.mesh.shape)}\n"
            + (f"continuing from step {start}" if start else f"run folder {config.model_dir}")
        )

    def _check_finite(self, metrics: dict[int, dict[str, Any]]) -> None:
        """Fetches the metrics, in place, and stops the run when they are not finite."""
        for step, values in metrics.items():
            if isinstance(values["loss"], float):
                continue  # Fetched and found finite before.
            values.update({name: float(value) for name, value in values.items()})
            # A gradient that is not finite has already spoiled the parameters.
            bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
            if bad:
                raise self._diverged(f"{bad[0]} is {values[bad[0]]}", step)

    def _diverged(self, what: str, step: int) -> NonFiniteLossError:
        good = "there is no checkpoint yet"
        if self.saved_step is not None:
            folder = self.checkpoints.directory / str(self.saved_step)
            good = f"the last good checkpoint is {folder}"
        return NonFiniteLossError(
            f"{what} at step {step}, learning rate {float(self.learning_rate(step - 1)):.3g}; "
            f"{good}. Lower --gin.LEARNING_RATE_PEAK, or clip the gradients: CLIP_NORM in gin, "
            "optax.clip_by_global_norm in an optimizer."
        )

    def _log_metrics(self, metrics: dict[int, dict[str, Any]]) -> None:
        self._check_finite(metrics)
        step = max(metrics)
        values = list(metrics.values())
        tokens = sum(m["target_tokens"] for m in values)
        loss = sum(m["loss"] * m["target_tokens"] for m in values) / tokens
        self.log.write(
            step,
            "train",
            {
                "loss": loss,
                "grad_norm": float(np.mean([m["grad_norm"] for m in values])),
                "learning_rate": float(self.learning_rate(step - 1)),
            },
        )
        self.loss = loss
        self.progress.update(step, self.total_steps, f"loss {loss:.4f}")

    def _evaluate(self, step: int) -> None:
        assert self.problem.evaluate is not None  # There is a period, so there is an evaluation.
        found = self.problem.evaluate(merge_params(self.state.params, self.frozen))
        folder = as_path(self.config.model_dir) / run_files.PREDICTIONS
        for result in found.results:
            split, metrics = self.config.eval_split, result.metrics
            self.log.write(step, split, metrics, task=result.task, shown=result.shown)
            if self.first and result.predictions:
                write_json_lines(folder / f"{result.task}_{step}.jsonl", result.predictions)
            self.progress.say(f"step {step}  {result.task}: {_shown(result.metrics)}")
        self.best.update(step, found.value, found.results)
        if diagnostics := self.problem.diagnostics(self.state.params):
            self.log.write(step, run_files.PROMPT_SPLIT, diagnostics)
            self.progress.say(f"step {step}  prompt: {_shown(diagnostics)}")

    def _save(self, step: int) -> None:
        # The loss is that of the parameters before the update.
        if not _all_finite(self.state.params):
            raise self._diverged("a trained parameter is not finite", step)
        if self.lock is not None:
            self.lock.check()
        # Each piece is whole or absent. The summary says that a run is finished, and comes last.
        if self.problem.export is not None:
            write = self.problem.export(merge_params(self.state.params, self.frozen))
            if self.first:
                write(run_files.numpy_checkpoint(self.config.model_dir, step))
        self.log.sync()
        if step != self.saved_step:
            self.checkpoints.save(
                self.state,
                {
                    "best": dataclasses.asdict(self.best),
                    "train_seconds": self.train_seconds,
                    "unlogged": self.unlogged,
                },
            )
            self.saved_step = step
        self.summary()
        self._prune()

    def _prune(self) -> None:
        keep = {step for step in (self.saved_step, self.best.step) if step is not None}
        self.checkpoints.prune(keep)
        if self.first:
            run_files.prune_numpy_checkpoints(self.config.model_dir, keep)

    def summary(self) -> dict[str, Any]:
        """Writes `summary.json`, and returns its contents."""
        summary: dict[str, Any] = {
            "best_step": self.best.step,
            "best_value": self.best.value,
            "metrics": self.best.metrics,
            "last_step": int(self.state.step),
            "train_steps": self.total_steps,
            "trainable_parameters": self.trainable_parameters,
            "train_seconds": round(self.train_seconds, 3),
        }
        if self.has_plateaued():
            summary["stopped_early"] = True
        if self.first:
            path = as_path(self.config.model_dir) / run_files.SUMMARY
            write_json(path, summary)
        return json_ready(summary)

    def has_plateaued(self) -> bool:
        """Whether the patience for evaluations without a new best has run out."""
        patience = self.config.early_stopping_patience
        return patience is not None and self.best.evaluations_since >= patience


@jax.jit
def _all_finite(params: Params) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all()


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(
        f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4f}"
        for name, value in metrics.items()
    )
