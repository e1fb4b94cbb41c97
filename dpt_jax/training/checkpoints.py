"""Checkpoints of the trainable state (Orbax), for a restart.

Only what training changes is saved: kilobytes for a prompt. Orbax writes a step into a temporary
folder and renames it; in a bucket it writes a file last that says that the step is whole. So a
killed run leaves whole checkpoints, and others that are told from them.

Which steps are kept depends on the best one, which the run knows. Orbax's CheckpointManager is not
used: it would not list the steps of a gs:// folder without Google's own client.
"""

import contextlib
import os
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dpt_jax.devices import agreement, watch
from dpt_jax.errors import InputError
from dpt_jax.files import entries, remove
from dpt_jax.paths import absolute, in_bucket
from dpt_jax.run_files import CHECKPOINTS
from dpt_jax.training.state import Params, TrainState

# Orbax's: the file of a whole step in a bucket, and what the others are called elsewhere.
_COMMITTED = "commit_success.txt"
_UNFINISHED = ".orbax-checkpoint-tmp"
# What Orbax and TensorStore raise for files that are not what they should be.
_UNREADABLE = (ValueError, KeyError, FileNotFoundError)


class Checkpoints:
    """The checkpoints of one run: `MODEL_DIR/checkpoints/<step>/`, the best and the latest kept."""

    def __init__(self, model_dir: str | os.PathLike, create: bool = True):
        """Looks at what is there.

        Args:
          model_dir: the run's folder.
          create: for the run itself: makes the folder, and clears what a killed run left half
            written. A reader leaves alone what may be under way.
        """
        # It takes long to import, and what predicts from a prompt reads no checkpoint.
        import orbax.checkpoint as ocp

        self.directory = absolute(model_dir) / CHECKPOINTS
        if not create and not self.directory.is_dir():
            raise InputError(f"{model_dir} has no {CHECKPOINTS}; is it the MODEL_DIR of a run?")
        self._args = ocp.args
        self._checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        if create and agreement.is_first():
            self.directory.mkdir(parents=True, exist_ok=True)
            whole = {str(step) for step in self.steps()}
            for path in entries(self.directory):
                if _UNFINISHED in path.name or path.name.isdigit() and path.name not in whole:
                    remove(path)

    def latest_step(self) -> int | None:
        """The last whole checkpoint's step, or None; the same in all processes."""
        return agreement.broadcast_from_first(max(self.steps(), default=None))

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, ascending."""
        found = (path for path in entries(self.directory) if path.name.isdigit())
        if in_bucket(self.directory):
            found = (path for path in found if (path / _COMMITTED).exists())
        return sorted(int(path.name) for path in found)

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Saves the state and the run's progress under the state's step; returns when on disk.

        Raises:
          InputError: when the disk is full, say.
        """
        path = self.directory / str(int(state.step))
        try:
            self._checkpointer.save(
                path,
                args=self._args.Composite(
                    state=self._args.StandardSave(state), progress=self._args.JsonSave(progress)
                ),
            )
        except (
            OSError,
            ValueError,
        ) as e:  # TensorStore, which writes the arrays, raises the latter.
            raise InputError(
                f"Checkpoint {path} cannot be written: {_first_words(e)} Once it can be, run the "
                "same command again: it continues from the last whole checkpoint."
            ) from e
        watch.note_checkpoint(path)

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
        path = self._path(self.latest_step() if step is None else step)
        state, progress = self._args.StandardRestore(abstract_state), self._args.JsonRestore()
        try:
            restored = self._read(path, state=state, progress=progress)
        except _UNREADABLE as e:
            raise InputError(self._unusable(path, e)) from e
        watch.note_checkpoint(path)
        return restored["state"], restored["progress"]

    def restore_params(self, step: int) -> Params:
        """The trainable parameters of a checkpoint alone, as NumPy arrays.

        Raises:
          InputError: when there is no checkpoint of that step, or it is damaged.
        """
        path = self._path(step)
        try:
            restored = self._read(path, state=self._args.StandardRestore())
        except _UNREADABLE as e:
            raise InputError(
                f"Checkpoint {path} is damaged: {_first_words(e)} Name another with --step."
            ) from e
        return jax.tree.map(np.asarray, restored["state"]["params"])

    def _read(self, path: Any, **args: Any) -> Any:
        with _late_answers_dropped():
            return self._checkpointer.restore(path, args=self._args.Composite(**args))

    def _unusable(self, path: Any, error: Exception) -> str:
        """Why a checkpoint cannot be restored, and what to do."""
        state, progress = self._args.StandardRestore(), self._args.JsonRestore()
        try:
            self._read(path, state=state, progress=progress)
        except _UNREADABLE:
            earlier = [step for step in self.steps() if step < int(path.name)]
            then = f"continues from step {max(earlier)}" if earlier else "starts from the beginning"
            return (
                f"Checkpoint {path} is damaged: {_first_words(error)} Move that folder away; the "
                f"same command then {then}."
            )
        return (
            f"Checkpoint {path} holds another state than this run's, as of another optimizer: "
            f"{_first_words(error)} Set --gin.MODEL_DIR to another folder for another run."
        )

    def _path(self, step: int | None) -> Any:
        if step not in self.steps():
            raise InputError(f"{self.directory} holds no checkpoint of step {step}.")
        return self.directory / str(step)

    def prune(self, keep: set[int]) -> None:
        """Deletes every checkpoint whose step is not in `keep`."""
        if not agreement.is_first():
            return
        for step in self.steps():
            if step not in keep:
                # In a bucket it is no checkpoint from here on.
                remove(self.directory / str(step) / _COMMITTED)
                remove(self.directory / str(step))

    def close(self) -> None:
        """Waits for what is under way."""
        self._checkpointer.close()


@contextlib.contextmanager
def _late_answers_dropped() -> Iterator[None]:
    """A block in which reads that outlive the failure of another say nothing.

    They answer to an event loop that Orbax has closed, and each would be a traceback of its own.
    After a failure they are still to come, so that the hook stays.
    """
    hook = sys.unraisablehook

    def without_late_answers(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = without_late_answers
    yield
    sys.unraisablehook = hook


def _first_words(error: Exception) -> str:
    """What an error says, without the pages that may follow."""
    said = str(error).partition("[tensorstore_spec=")[0]
    words = textwrap.shorten(said, 200, placeholder=" …")
    return words if words.endswith((".", "…")) else f"{words}."


def abstract(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state, to restore another one like it."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
