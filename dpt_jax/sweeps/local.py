"""Points in processes of this machine."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from dpt_jax.paths import in_bucket
from dpt_jax.sweeps.definition import Point
from dpt_jax.sweeps.folder import SweepFolder
from dpt_jax.sweeps.jobs import OnOutcome, died, job_of
from dpt_jax.sweeps.worker import Outcome

# What processes say outside of points.
_LOG = ".workers.log"


class Local:
    """Points in processes of this machine, `jobs` side by side."""

    # What becomes of the points that are running.
    AT_STOP = "the running points save before they stop."

    def __init__(
        self,
        folder: SweepFolder,
        search_paths: Sequence[str],
        jobs: int,
        members_at_once: int | None = None,
    ):
        self._folder, self._search_paths, self._jobs = folder, search_paths, jobs
        self._members_at_once = members_at_once
        self._waiting: queue.SimpleQueue[list[Point]] = queue.SimpleQueue()
        self._processes: set[subprocess.Popen] = set()
        self._stopping = threading.Event()
        self._reporting = threading.Lock()
        self._errors: list[BaseException] = []

    def __call__(self, jobs: Sequence[list[Point]], report: OnOutcome) -> None:
        """Runs all points; returns early after `stop`."""

        def one_by_one(outcome: Outcome) -> None:
            with self._reporting:
                report(outcome)

        for job in jobs:
            self._waiting.put(job)
        threads = [
            threading.Thread(target=self._work, args=(i, one_by_one), daemon=True)
            for i in range(min(self._jobs, len(jobs)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            # Without a time limit, a signal would wait for the thread as well.
            while thread.is_alive():
                thread.join(0.2)
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Lets the points that are running save, and starts no others."""
        self._stopping.set()
        for process in list(self._processes):
            process.send_signal(signal.SIGTERM)

    def _work(self, index: int, report: OnOutcome) -> None:
        try:
            self._work_off(index, report)
        except BaseException as e:
            # A thread's exception would be printed and forgotten.
            self._errors.append(e)
            self.stop()

    def _work_off(self, index: int, report: OnOutcome) -> None:
        process = None
        while not self._stopping.is_set():
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if process is None:
                process = self._start(index)
            process = self._run(process, job, report)
        if process is not None:
            process.stdin.close()
            process.wait()
            self._processes.discard(process)

    def _start(self, index: int) -> Any:
        settings = {"cores": _cores(index, self._jobs)}
        process = subprocess.Popen(
            [sys.executable, "-m", "dpt_jax.sweeps.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if in_bucket(self._folder.path) else open(self._folder.path / _LOG, "a"),
            text=True,
            # Of a signal from the terminal this process decides what becomes of the points.
            start_new_session=True,
            pass_fds=self._folder.lock_handles,
        )
        self._processes.add(process)
        if self._stopping.is_set():
            # `stop` may have looked before it was there.
            process.send_signal(signal.SIGTERM)
        return process

    def _run(self, process: Any, job: list[Point], report: OnOutcome) -> Any:
        """Hands a job to a process; returns the process, or None when it died over it."""
        left = {point.name: point for point in job}
        try:
            described = job_of(job, self._folder, self._search_paths, self._members_at_once)
            process.stdin.write(json.dumps(described) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if not line.strip():
                    return process
                outcome = Outcome(**json.loads(line))
                left.pop(outcome.point)
                report(outcome)
        except BrokenPipeError:
            pass
        code = process.wait()
        self._processes.discard(process)
        if self._stopping.is_set():
            for name in left:
                report(Outcome(name, "stopped"))
        elif len(job) > 1 and len(left) == len(job):
            # Together they may have been too much; whose fault it is, alone will show.
            for point in job:
                self._waiting.put([point])
        elif left:
            first, *rest = left.values()
            report(Outcome(first.name, "failed", error=died(code)))
            for point in rest:
                self._waiting.put([point])
        return None


def _cores(index: int, jobs: int) -> list[int] | None:
    """The share of this machine's cores of the process `index` of `jobs`; None is all of them.

    XLA makes one thread per core. Processes that each use all cores get in each other's way.
    """
    if jobs < 2 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores[index * len(cores) // jobs : (index + 1) * len(cores) // jobs] or None
