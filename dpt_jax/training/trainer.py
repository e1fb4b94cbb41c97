"""Training: everything that can be wrong is found first, then the run takes its steps."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dpt_jax.devices import agreement, partitioning
from dpt_jax.training import run_folder
from dpt_jax.training.config import TrainingConfig
from dpt_jax.training.loggers import Callback
from dpt_jax.training.problem import Problem
from dpt_jax.training.run import Run
from dpt_jax.training.state import Params, split_params


def train(
    config: TrainingConfig,
    problem: Problem,
    gin_config: Callable[[], str] = str,
    *,
    frozen: Params | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Trains, evaluates and checkpoints; continues the run when `model_dir` holds it.

    Everything that can be wrong with the input is found before anything is compiled or written.

    Args:
      config: how to train.
      problem: what to train.
      gin_config: returns the operative gin configuration, to be kept as `config.gin`.
      frozen: the frozen parameters, where they are on their devices already.
      callbacks: each is called with every line of the log.

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
        text = check(config, problem, gin_config)
    if agreement.process_count() > 1:
        agreement.check_same("configuration", run_folder.everything(config, problem))

    with contextlib.ExitStack() as stack:
        lock = None
        with agreement.raise_everywhere():
            if agreement.is_first():
                lock = stack.enter_context(run_folder.locked(config.model_dir))
            # Once more: another run may have held the lock, and trained in the meantime.
            run_folder.check_identity(config, problem.identity, gin_config=text)
        stack.enter_context(partitioning.activate(mesh))
        run = Run(config, problem, mesh, frozen, lock, callbacks)
        if run.is_finished():
            return run.already_finished()
        if agreement.is_first():
            run_folder.begin(config, problem, text)
        with agreement.raise_everywhere():
            agreement.broadcast_from_first(None)
            run_folder.check_shared(config.model_dir)
        return run.loop()


def check(config: TrainingConfig, problem: Problem, gin_config: Callable[[], str]) -> str:
    """Checks the recipe, and that the folder is this run's or free.

    Returns:
      What `gin_config` gives when the optimizer has been made.

    Raises:
      InputError: for a recipe that cannot be used, or a folder that holds another run.
    """
    trainable, _ = split_params(problem.params, problem.trainable)
    config.check_optimizer(trainable, config.total_steps(problem.data.steps_per_epoch))
    text = gin_config()
    known = run_folder.check_identity(config, problem.identity, gin_config=text)
    run_folder.check_files(config, problem)
    if known and agreement.is_first() and not run_folder.keeps_recipe(config.model_dir):
        print(
            f"{config.model_dir} does not say how it was trained (optimizer, learning rate, "
            "clipping, first values): an earlier version began it. Whether that is what is asked "
            "for now is not known.",
            file=sys.stderr,
        )
    return text
