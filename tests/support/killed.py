"""`dpt` that kills itself at a named place: `python -m tests.support.killed PLACE STEP ...`.

Every place lies inside the saving of STEP, where a run is most easily caught half-way.
"""

import os
import pathlib
import shutil
import signal
import sys
import traceback


def die(*_args, **_kwargs):
    """Ends this process as a power cut would: nothing is flushed, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str, step: int) -> None:
    """Replaces the function at `place` so that it kills the process when step `step` is saved."""
    from dpt_jax import files
    from dpt_jax.training import checkpoints, loggers

    if place == "before_checkpoint":  # The prompt is exported, the summary is written.
        save = checkpoints.Checkpoints.save

        def dying_save(self, state, progress):
            (die if int(state.step) == step else save)(self, state, progress)

        checkpoints.Checkpoints.save = dying_save
    elif place == "in_checkpoint":  # Orbax has written its temporary folder, not yet renamed it.
        for owner, name in ((os, "rename"), (os, "replace"), (pathlib.Path, "rename")):
            move = getattr(owner, name)

            def dying_move(source, target, *args, move=move, **kwargs):
                if pathlib.Path(target).name == str(step):
                    die()
                return move(source, target, *args, **kwargs)

            setattr(owner, name, dying_move)
    elif place == "in_export":  # The factors are there, the prompt is not.
        replace = os.replace

        def dying_replace(source, target):
            path = pathlib.Path(target)
            if path.name == "prompt.npy" and path.parent.name == f"checkpoint_{step}":
                die()
            replace(source, target)

        files.os.replace = dying_replace
    elif place == "in_prune":  # The step is saved, an older one half deleted.
        remove = checkpoints.remove

        def dying_remove(path):
            if path.name.isdigit() and (path.parent / str(step)).exists():
                shutil.rmtree(path / "state")
                die()
            remove(path)

        checkpoints.remove = dying_remove
    elif place == "in_log":  # A line of the log is cut short.
        write = loggers.MetricsLog.write

        def dying_write(self, at, *args, **kwargs):
            if at == step:
                self._file.write(b'{"step": %d, "spl' % at)
                self._file.flush()
                die()
            write(self, at, *args, **kwargs)

        loggers.MetricsLog.write = dying_write
    elif place == "stop":  # Not killed, but told to stop: at the step, or at one behind it.
        write, signals = loggers.MetricsLog.write, [signal.SIGTERM]

        def stopping_write(self, at, *args, **kwargs):
            write(self, at, *args, **kwargs)
            if at >= step and signals:
                os.kill(os.getpid(), signals.pop())

        loggers.MetricsLog.write = stopping_write
    else:
        raise ValueError(place)


def killed_while_writing(changes: int, write) -> bool:
    """Calls `write` in a fork of this process that dies when it has changed the disk so often.

    Files and folders that are made, synced, renamed, swapped and removed by `dpt_jax.files` count.
    `write` must not need JAX, whose threads a fork does not have.

    Returns:
      Whether it died; otherwise `write` came to its end.
    """
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    try:
        _count_changes(changes)
        write()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _count_changes(left: int) -> None:
    from dpt_jax import files

    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                die()
            return function(*args, **kwargs)

        return call

    for name in ("replace", "chmod", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    for name in ("_sync", "_exchange", "remove", "_make_file", "_make_folder"):
        setattr(files, name, counted(getattr(files, name)))


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    from dpt_jax.cli.main import main

    sys.exit(main(sys.argv[3:]))
