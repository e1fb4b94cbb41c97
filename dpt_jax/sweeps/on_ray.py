"""Points as tasks of a Ray cluster."""

import dataclasses
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dpt_jax.errors import InputError
from dpt_jax.paths import absolute
from dpt_jax.sweeps.definition import Point
from dpt_jax.sweeps.folder import SweepFolder
from dpt_jax.sweeps.jobs import OnOutcome, died, job_of
from dpt_jax.sweeps.worker import OUT_OF_MEMORY, Outcome


@dataclasses.dataclass
class Ray:
    """Points as tasks of a Ray cluster: that of `RAY_ADDRESS`, or one started on this machine.

    All machines see the sweep's folder under the same path. Each point is a fresh process, so that
    an accelerator's memory is given back.

    Attributes:
      folder: the sweep's folder.
      search_paths: further folders to look for gin files in.
      jobs: how many points share this machine's cores, where `resources` does not say.
      resources: what a point needs, by Ray's names: CPU, GPU, TPU, or the cluster's own.
      members_at_once: of points trained together, how many take a step at a time.
    """

    folder: SweepFolder
    search_paths: Sequence[str]
    jobs: int
    resources: Mapping[str, float]
    members_at_once: int | None = None

    AT_STOP: ClassVar[str] = "the running points end, and go on from their last checkpoints."

    def __call__(self, jobs: Sequence[list[Point]], report: OnOutcome) -> None:
        """Runs all points."""
        import ray

        started = not ray.is_initialized()
        if started:
            # Ray would hide accelerators that it did not hand out itself, and say so at length.
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                log_to_driver=False,
                configure_logging=False,
            )
        try:
            self._run(ray, jobs, report)
        finally:
            if started:
                ray.shutdown()

    def stop(self) -> None:
        """Ends the tasks of this process; runs go on from their last checkpoints."""
        raise KeyboardInterrupt

    def _run(self, ray: Any, jobs: Sequence[list[Point]], report: OnOutcome) -> None:
        needed = dict(self.resources)
        cpus = needed.pop("CPU", max(1, (os.cpu_count() or 1) // self.jobs))
        available = ray.cluster_resources()
        wanted = {"CPU": cpus, **needed}
        for name, amount in wanted.items():
            if amount > available.get(name, 0):
                has = ", ".join(f"{k}={v:g}" for k, v in sorted(available.items()) if ":" not in k)
                raise InputError(
                    f"A point needs {name}={amount:g}, which the Ray cluster does not have "
                    f"({has}). Change --resources."
                )
        # One fresh process per point; a point that died is reported, not tried again.
        task = ray.remote(max_calls=1)(_ray_points).options(
            num_cpus=cpus, num_gpus=needed.pop("GPU", 0), resources=needed, max_retries=0
        )
        running: dict[Any, list[Point]] = {}

        def submit(points: list[Point]) -> None:
            job = job_of(points, self.folder, self.search_paths, self.members_at_once)
            for point in job["points"]:
                point["model_dir"] = str(absolute(point["model_dir"]))
                point["log"] = str(absolute(point["log"]))
            running[task.remote(job, os.getcwd(), list(sys.path))] = points

        for points in jobs:
            submit(points)
        while running:
            [ready], _ = ray.wait(list(running))
            points = running.pop(ready)
            try:
                outcomes = [Outcome(**fields) for fields in ray.get(ready)]
            except ray.exceptions.RayError as e:
                if len(points) > 1:
                    # Together they may have been too much; whose fault it is, alone will show.
                    for point in points:
                        submit([point])
                    continue
                outcomes = [_ray_failure(ray, points[0], e)]
            for outcome in outcomes:
                report(outcome)


def _ray_points(job: Mapping[str, Any], cwd: str, path: list[str]) -> list[dict[str, Any]]:
    """What runs on a node of the cluster."""
    sys.path.extend(entry for entry in path if entry not in sys.path)
    from dpt_jax.sweeps import worker

    worker.prepare(cwd)
    return [dataclasses.asdict(outcome) for outcome in worker.train_points(job)]


def _ray_failure(ray: Any, point: Point, error: Exception) -> Outcome:
    memory = isinstance(error, ray.exceptions.OutOfMemoryError)
    crashed = isinstance(error, ray.exceptions.WorkerCrashedError)
    if memory or crashed:
        what = "Ray ended the point for want of memory." if memory else died(-signal.SIGKILL)
        text = f"{what} {OUT_OF_MEMORY}" if memory else what
    else:
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return Outcome(point.name, "failed", error=text)


def parse_resources(text: str | None) -> dict[str, float]:
    """Reads `--resources`, as in "TPU=4,CPU=8".

    Raises:
      InputError: for anything else.
    """
    found = {}
    for part in (text or "").split(","):
        if not part:
            continue
        name, _, amount = part.partition("=")
        try:
            found[name.strip()] = float(amount)
        except ValueError as e:
            raise InputError(
                f"--resources is {text!r}; it takes what a point needs, such as TPU=4,CPU=8."
            ) from e
    return found
