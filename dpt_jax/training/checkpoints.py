"""Checkpoints of the trainable state (Orbax) and the exported prompts beside them.

Only what training changes is saved: kilobytes for a prompt. Orbax writes a step into a temporary
folder and renames it; in a bucket it writes a file last that says that the step is whole. So a
killed run leaves whole checkpoints only.
"""

import os
import textwrap
from typing import Any

import jax
import numpy as np

from dpt_jax.devices import watch
from dpt_jax.errors import InputError
from dpt_jax.paths import absolute
from dpt_jax.run_files import CHECKPOINTS
from dpt_jax.training.state import Params, TrainState


class Checkpoints:
    """The checkpoints of one run: `MODEL_DIR/checkpoints/<step>/`, the best and the latest kept."""

    def __init__(self, model_dir: str | os.PathLike, create: bool = True):
        # It takes long to import, and what predicts from a prompt reads no checkpoint.
        import orbax.checkpoint as ocp

        self.directory = absolute(model_dir) / CHECKPOINTS
        if not create and not self.directory.is_dir():
            raise InputError(f"{model_dir} has no {CHECKPOINTS}; is it the MODEL_DIR of a run?")
        # Which steps are kept depends on the best one, which the trainer knows: it calls `prune`.
        self._args = ocp.args
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False,
                create=create,
                # What a killed run left half written; a reader leaves alone what may be under way.
                cleanup_tmp_directories=create,
            ),
        )

    def latest_step(self) -> int | None:
        """The last whole checkpoint's step, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Saves the state and the run's progress under the state's step; returns when on disk.

        Raises:
          InputError: when the disk is full, say.
        """
        step = int(state.step)
        try:
            self._manager.save(
                step,
                args=self._args.Composite(
                    state=self._args.StandardSave(state), progress=self._args.JsonSave(progress)
                ),
            )
        except (
            OSError,
            ValueError,
        ) as e:  # TensorStore, which writes the arrays, raises the latter.
            raise InputError(
                f"Checkpoint {self.directory / str(step)} cannot be written: {_first_words(e)} "
                "Make room, and run the same command again: it continues from the last whole "
                "checkpoint."
            ) from e
        watch.note_checkpoint(self.directory / str(step))

    def restore(
        self, abstract_state: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Restores the state and progress of `step`, by default the latest.

        Args:
          abstract_state: shapes, dtypes and shardings to restore into.
          step: which checkpoint.

        Raises:
          InputError: when there is no such checkpoint, or it cannot be read into that state.
        """
        step = self.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise InputError(f"{self.directory} holds no checkpoint of step {step}.")
        try:
            restored = self._manager.restore(
                step,
                args=self._args.Composite(
                    state=self._args.StandardRestore(abstract_state),
                    progress=self._args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, FileNotFoundError) as e:
            raise InputError(
                f"Checkpoint {self.directory / str(step)} does not hold this run's state: "
                f"{_first_words(e)} It is another optimizer's, or damaged. Set --gin.MODEL_DIR to "
                "another folder for another run; or delete this checkpoint to continue from an "
                "earlier one, or from the start."
            ) from e
        watch.note_checkpoint(self.directory / str(step))
        return restored["state"], restored["progress"]

    def restore_params(self, step: int) -> Params:
        """The trainable parameters of a checkpoint alone, as NumPy arrays.

        Raises:
          InputError: when there is no checkpoint of that step.
        """
        if step not in self._manager.all_steps():
            raise InputError(f"{self.directory} holds no checkpoint of step {step}.")
        restored = self._manager.restore(
            step, args=self._args.Composite(state=self._args.StandardRestore())
        )
        return jax.tree.map(np.asarray, restored["state"]["params"])

    def prune(self, keep: set[int]) -> None:
        """Deletes every checkpoint whose step is not in `keep`."""
        for step in self._manager.all_steps():
            if step not in keep:
                self._manager.delete(step)

    def close(self) -> None:
        """Waits for what is under way."""
        self._manager.close()


def _first_words(error: Exception) -> str:
    """What an error says, without the pages that may follow."""
    return textwrap.shorten(str(error), 200, placeholder=" ...")


def abstract(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state, to restore another one like it."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
