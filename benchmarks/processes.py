"""Two sides of a comparison, each in a process of its own, asked in turn.

Own processes make peak memory comparable, and keep two numerics libraries' thread pools apart.
Asking in turn (ours, theirs, ours, theirs, ...) makes a slower or faster minute of the machine meet
both sides.
"""

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from dpt_jax.huge_pages import restart_with_huge_pages


class Side:
    """One side: a child process that answers questions, one JSON object per line."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Runs a handler of the child and returns its answer."""
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}.")
        return json.loads(line)


@contextlib.contextmanager
def start(script: str, arguments: list[str], threads: int, platform: str = "cpu") -> Iterator[Side]:
    """Starts `script` with `arguments` on `threads` cores; ended on leaving the context.

    `platform` is JAX's; of a GPU's memory, JAX then takes only what it needs.
    """
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        environment[name] = str(threads)
    environment["JAX_PLATFORMS"] = platform
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    root = str(pathlib.Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(
        [root, *filter(None, [environment.get("PYTHONPATH")])]
    )
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield Side(process)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answers the parent's questions until it closes the pipe; in the child."""
    # What libraries print must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        answer = handlers[question.pop("command")](**question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def use_cores(count: int) -> None:
    """Restricts this process to `count` cores where the system can; before heavy imports."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def use_one_device_per_core(count: int) -> None:
    """Sets this process up, before JAX is imported, as one that trains on a CPU should be.

    The `dpt` command takes huge pages by itself; XLA is given one device per core, over which the
    batch is split, by `XLA_FLAGS=--xla_force_host_platform_device_count=N dpt train`.
    """
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
    restart_with_huge_pages()


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, which must not return before its work is done."""
    start_time = time.perf_counter()
    run()
    return time.perf_counter() - start_time


def peak_memory_bytes() -> int:
    """The largest resident memory this process has had."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # Unlike ru_maxrss, not inherited from the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
