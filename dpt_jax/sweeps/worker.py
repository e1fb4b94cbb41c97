"""A process that trains points, one after another: `python -m dpt_jax.sweeps.worker`.

It reads one job per line from standard input, as JSON, and writes a line for every point of it to
standard output. When standard input ends, because its reader has ended or was killed, a run in
progress saves and stops. One process trains many points, since starting one takes longer than a
small point does.
"""

import contextlib
import dataclasses
import functools
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dpt_jax.devices import compilation_cache
from dpt_jax.errors import LESS_MEMORY, is_out_of_memory
from dpt_jax.files import write_bytes
from dpt_jax.paths import as_path, in_bucket

OUT_OF_MEMORY = f"{LESS_MEMORY.removesuffix('.')}, or lower --jobs or --members_at_once."


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the attempt at a point ended.

    Attributes:
      point: its name.
      status: "done", "failed" or "stopped" (by a signal, after saving).
      seconds: wall time of the attempt; of points trained together, their share.
      error: why it failed.
      together: how many points were trained together; 1 is alone.
    """

    point: str
    status: str
    seconds: float = 0.0
    error: str = ""
    together: int = 1


def train_points(job: Mapping[str, Any]) -> Iterator[Outcome]:
    """Trains the points of a job, together where there are several and that is possible.

    Args:
      job: `points`, each a mapping with `name`, `gin_files`, `bindings`, `model_dir` and `log`;
        `search_paths`; and `members_at_once`, how many of them take a step at a time.
    """
    points, search_paths = job["points"], job["search_paths"]
    if len(points) > 1:
        began = time.monotonic()
        for point in points[1:]:
            with _output_to(point["log"]):
                print(f"Trains together with {points[0]['name']}, whose log tells of all.")
        ends: list[Outcome] = []
        with _output_to(points[0]["log"]):
            error = _guarded(
                lambda: ends.extend(_train_together(points, search_paths, job["members_at_once"]))
            )
            if error not in (None, "stopped"):
                print(f"Each of the {len(points)} points goes on alone.", file=sys.stderr)
        if error == "stopped":
            yield from (Outcome(point["name"], "stopped") for point in points)
            return
        if error is None:
            share = (time.monotonic() - began) / len(points)
            yield from (dataclasses.replace(end, seconds=share) for end in ends)
            return
    for point in points:
        began = time.monotonic()
        with _output_to(point["log"]):
            error = _guarded(functools.partial(_train, point, search_paths))
        status = {None: "done", "stopped": "stopped"}.get(error, "failed")
        text = error if status == "failed" else ""
        yield Outcome(point["name"], status, time.monotonic() - began, text or "")
        if status == "stopped":
            return


def _guarded(train: Callable[[], None]) -> str | None:
    """Runs `train`; None when it worked, "stopped", or what went wrong, in one message."""
    from dpt_jax.errors import InputError, NonFiniteLossError, Stopped

    try:
        train()
        return None
    except Stopped as e:
        print(e, file=sys.stderr)
        return "stopped"
    except (InputError, NonFiniteLossError) as e:
        error = str(e)
    except Exception as e:
        # A point that fails in a way nobody foresaw must not take the others with it.
        traceback.print_exc()
        message = str(e).strip() or type(e).__name__
        error = f"{type(e).__name__}: {message}"
        if is_out_of_memory(e):
            first = message.splitlines()[0]
            error = f"Out of memory ({type(e).__name__}: {first}). {OUT_OF_MEMORY}"
    finally:
        import jax

        # Programs of one point are of no use to the next, whose functions are other ones.
        jax.clear_caches()
    print(f"error: {error}", file=sys.stderr)
    return error


def _config(point: Mapping[str, Any], search_paths: Sequence[str]) -> Any:
    from dpt_jax import gin_utils
    from dpt_jax.problems import kinds

    model_dir = f"MODEL_DIR = {point['model_dir']!r}"
    gin_utils.parse(point["gin_files"], [*point["bindings"], model_dir], search_paths)
    return kinds.build()


def _train(point: Mapping[str, Any], search_paths: Sequence[str]) -> None:
    from dpt_jax import gin_utils
    from dpt_jax.problems import kinds

    kinds.train(_config(point, search_paths), gin_utils.operative_config)


def _train_together(
    points: Sequence[Mapping[str, Any]], search_paths: Sequence[str], members_at_once: int | None
) -> list[Outcome]:
    from dpt_jax.sweeps.population import train_population

    configs, texts = own_configs(points, search_paths)
    outcomes = []
    ends = train_population(configs, texts, members_at_once)
    for point, end in zip(points, ends, strict=True):
        status, error = ("done", "") if isinstance(end, dict) else ("failed", str(end))
        outcomes.append(Outcome(point["name"], status, error=error, together=len(points)))
    return outcomes


def own_configs(
    points: Sequence[Mapping[str, Any]], search_paths: Sequence[str]
) -> tuple[list[Any], list[str]]:
    """The RunConfigs of points, each with its own schedule and optimizer, and their gin texts.

    Gin reads a function's bindings when it is called, and by then those of another point are
    parsed.
    """
    from dpt_jax import gin_utils

    configs, texts = [], []
    for point in points:
        config = _config(point, search_paths)
        # What has not been called is not in the text.
        config.optimizer(config.learning_rate(config.train_steps or 1))
        texts.append(gin_utils.operative_config())
        own = {name: _own(point, search_paths, name) for name in ("learning_rate", "optimizer")}
        configs.append(dataclasses.replace(config, **own))
    return configs, texts


def _own(point: Mapping[str, Any], search_paths: Sequence[str], field: str) -> Callable[..., Any]:
    @functools.cache  # Reading gin files takes longer than what is asked of them.
    def call(*args: Any) -> Any:
        return getattr(_config(point, search_paths), field)(*args)

    return call


@contextlib.contextmanager
def growing_log(log: str) -> Iterator[Any]:
    """The file of a log, open at its end; what is in a bucket grows when the block ends."""
    path = as_path(log)
    if in_bucket(path):
        with tempfile.TemporaryFile(buffering=0) as file:
            yield file
            file.seek(0)
            before = path.read_bytes() if path.exists() else b""
            write_bytes(path, before + file.read())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        yield file


@contextlib.contextmanager
def _output_to(log: str) -> Iterator[None]:
    """Appends to `log` what Python and its libraries print."""
    kept = os.dup(1), os.dup(2)
    with growing_log(log) as file:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for stream, number, handle in zip((sys.stdout, sys.stderr), (1, 2), kept, strict=True):
                stream.flush()
                os.dup2(handle, number)
                os.close(handle)


def prepare(cwd: str | None = None) -> None:
    """Sets this process up: where task modules and compiled programs are.

    Args:
      cwd: the working directory of the sweep.
    """
    if cwd is not None:
        os.chdir(cwd)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Points of one shape share their programs.
    compilation_cache.start()


def _jobs() -> Iterator[dict[str, Any]]:
    """The jobs of standard input; at its end, a run in progress is told to stop."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        yield json.loads(line)


def main() -> None:
    """Works until standard input ends."""
    settings = json.loads(sys.argv[1])
    if cores := settings.get("cores"):
        # Before JAX counts them to make its threads.
        os.sched_setaffinity(0, cores)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    prepare()
    for job in _jobs():
        for outcome in train_points(job):
            answers.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        answers.write("\n")


if __name__ == "__main__":
    main()
