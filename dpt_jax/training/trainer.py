"""Training: everything that can be wrong is found first, then the run takes its steps."""

from collections.abc import Callable
from typing import Any

from dpt_jax.devices import agreement, partitioning
from dpt_jax.training import run_folder
from dpt_jax.training.config import TrainingConfig
from dpt_jax.training.problem import Problem
from dpt_jax.training.run import Run


def train(
    config: TrainingConfig, problem: Problem, gin_config: Callable[[], str] = str
) -> dict[str, Any]:
    """Trains, evaluates and checkpoints; continues the run when `model_dir` holds it.

    Everything that can be wrong with the input is found before anything is compiled or written.

    Args:
      config: how to train.
      problem: what to train.
      gin_config: returns the operative gin configuration, to be kept as `config.gin`.

    Returns:
      The contents of `summary.json`.

    Raises:
      InputError: for input that cannot be used.
      NonFiniteLossError: when the loss is not finite.
      Stopped: after SIGTERM or SIGINT, when the state has been saved.
    """
    with agreement.raise_everywhere():
        mesh = partitioning.make_mesh(config.mesh)
        partitioning.check_batch("BATCH_SIZE", config.batch_size, mesh, config.microbatches)
        run_folder.check_identity(config, problem.identity)
    if agreement.process_count() > 1:
        agreement.check_same("configuration", run_folder.everything(config, problem))

    with partitioning.activate(mesh):
        run = Run(config, problem, mesh)
        if run.is_finished():
            return run.already_finished()
        if agreement.is_first():
            run_folder.clear_unfinished(config.model_dir)
            run_folder.write_identity(config, problem, gin_config())
        with agreement.raise_everywhere():
            agreement.broadcast_from_first(None)
            run_folder.check_shared(config.model_dir)
        return run.loop()
