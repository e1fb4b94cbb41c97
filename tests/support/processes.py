"""Processes of a test, each with its own environment, virtual CPU devices, output and end.

They come from a fork server, which has imported everything once (`tests.support.preloaded`): a
process that imports TensorFlow by itself takes five seconds of a core before its first line. The
server starts with the first process, and ends with the tests. What a program reads while it is
imported, or prints then, a forked process cannot show: a test of that needs `subprocess`.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import connection, forkserver

ROOT = pathlib.Path(__file__).parents[2]


class Process:
    """`python -m MODULE ...` or `python -c CODE ...`, in the shape of `subprocess.Popen`.

    Args:
      arguments: what follows `python -m`, or "-c" and what follows it.
      env: the environment; without it, that of this process.
      stdin, stdout, stderr: files; without them, nothing to read, and what `communicate` returns.
      pass_fds: descriptors that stay open as long as the process lives.
      start_new_session: whether signals of the terminal pass it by.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        env=None,
        stdin=None,
        stdout=None,
        stderr=None,
        pass_fds=(),
        start_new_session=False,
    ):
        _start_server()
        self.args = [*map(str, arguments)]
        # For appending, because the position in a file is the same for all who have it open.
        self._outputs = [given or tempfile.TemporaryFile("a+") for given in (stdout, stderr)]
        streams = [stdin, *self._outputs]
        # A connection is what `multiprocessing` hands over to a process that does not inherit.
        fds = [file and connection.Connection(os.dup(file.fileno())) for file in streams]
        kept = [connection.Connection(os.dup(fd)) for fd in pass_fds]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run,
            args=(self.args, dict(os.environ if env is None else env), fds, kept),
            kwargs={"new_session": start_new_session},
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits; standard output and standard error."""
        self.wait(timeout)
        for file in self._outputs:
            file.seek(0)
        out, err = (file.read() for file in self._outputs)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


_starting = threading.Lock()


def _start_server() -> None:
    """Starts the fork server, unless there is one: it finds modules where this process does."""
    modules = ["tests.support.triton_first", "tests.support.preloaded"]
    multiprocessing.set_forkserver_preload(modules)
    # The threads of a sweep come here together.
    with _starting:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        try:
            forkserver.ensure_running()
        finally:
            del os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


def stop_server() -> None:
    """Ends the fork server, and waits for it; for the end of the tests."""
    forkserver._forkserver._stop()


def _run(arguments, env, fds, kept, new_session) -> None:
    """The whole life of a process."""
    # The server passes over an import that fails.
    assert "tests.support.preloaded" in sys.modules, "`import tests.support.preloaded` fails"
    from tests.support import preloaded

    for number, fd in enumerate(fds):
        if fd is not None:
            os.dup2(fd.fileno(), number)
            fd.close()
    if fds[0] is not None:
        sys.stdin = open(0, closefd=False)
    if new_session:
        os.setsid()
    for name in preloaded.READ_AT_IMPORT:
        if env.get(name) != os.environ.get(name):
            raise ValueError(f"{name}={env.get(name)!r}, but the fork server has imported JAX")
    os.environ.clear()
    # Set, so that `dpt` does not replace the process by one that imports everything again.
    os.environ.update({"GLIBC_TUNABLES": ""} | env)
    os.chdir(ROOT)
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        # What Python does at its end, and `multiprocessing` leaves out.
        threading._shutdown()
        atexit._run_exitfuncs()


class ForkedWorkers:
    """Stands for `subprocess` where `dpt_jax.sweeps.local` starts the processes that train."""

    PIPE = subprocess.PIPE

    class Popen(Process):
        def __init__(self, command, stdin, stdout, stderr, text, **kwargs):
            python, option, *arguments = command
            assert (python, option, text) == (sys.executable, "-m", True)
            assert stdin == stdout == subprocess.PIPE
            (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
            with open(theirs_in) as source, open(theirs_out, "w") as sink, stderr:
                super().__init__(arguments, None, source, sink, stderr, **kwargs)
            self.stdin, self.stdout = open(ours_in, "w"), open(ours_out)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def environment(devices: int | None = None, **variables: str) -> dict[str, str]:
    """This process's environment, with `devices` virtual CPU devices and more variables."""
    env = dict(os.environ)
    if devices is not None:
        count = f"--xla_force_host_platform_device_count={devices}"
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {count}".strip()
    return env | variables


def start(argv, devices: int | None = None, module: str = "dpt_jax", **variables) -> Process:
    """Starts a module with `devices` virtual devices."""
    return Process([module, *argv], environment(devices, **variables))


def start_all(argvs, devices: int, **flags) -> list[Process]:
    """Starts one process for each command line, with the flags that let them find each other."""
    flags = {"coordinator_address": f"localhost:{free_port()}"} | flags
    return [
        start(
            [
                *argv,
                f"--num_processes={len(argvs)}",
                f"--process_id={i}",
                *(f"--{name}={value}" for name, value in flags.items()),
            ],
            devices,
        )
        for i, argv in enumerate(argvs)
    ]


def finish(processes) -> list[tuple[int, str, str]]:
    """Waits for all; the exit status, standard output and standard error of each."""
    outputs = [process.communicate(timeout=300) for process in processes]
    return [
        (process.returncode, *output) for process, output in zip(processes, outputs, strict=True)
    ]


def run(*arguments, devices: int | None = None, **variables) -> subprocess.CompletedProcess:
    """Runs `python -m MODULE ...` or `python -c CODE ...` to its end."""
    process = Process(arguments, environment(devices, **variables))
    [(status, out, err)] = finish([process])
    return subprocess.CompletedProcess(process.args, status, out, err)
