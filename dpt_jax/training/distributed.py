"""One run in several processes, by JAX's own runtime: how it starts, agrees and stops.

Every process runs the same program on its share of the devices. What must be the same in all of
them is compared before anything is compiled, and what is wrong in one of them is told by all. In a
single process every function here does what its name says of that one process.
"""

import atexit
import contextlib
import dataclasses
import glob
import importlib.util
import itertools
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from dpt_jax.errors import InputError, NonFiniteLossError, Stopped
from dpt_jax.training import watch

# Waiting ends at once when the other process dies, which JAX's runtime finds out by itself.
_A_DAY_IN_MS = 24 * 60 * 60 * 1000
# JAX gives up connecting by ending the process with a stack trace; we give up before it does.
_GRACE_SECONDS = 60
_messages = itertools.count()


@dataclasses.dataclass(frozen=True)
class Launch:
    """How this process finds the others; what is None comes from the environment or the cluster.

    Attributes:
      coordinator_address: "host:port" of process 0 (`JAX_COORDINATOR_ADDRESS`).
      num_processes: processes of the run (`JAX_NUM_PROCESSES`); 1 starts nothing.
      process_id: number of this process, from 0 (`JAX_PROCESS_ID`).
      initialization_timeout: seconds in which all processes must have come.
      heartbeat_timeout: seconds without a sign of life after which a process is taken for dead
        and the others stop.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    initialization_timeout: int = 300
    heartbeat_timeout: int = 100

    def with_environment(self) -> "Launch":
        """The same, with what is None taken from JAX's environment variables.

        Raises:
          InputError: when a variable or a combination cannot be used.
        """
        numbers = {}
        for name in ("num_processes", "process_id"):
            value = getattr(self, name)
            variable = f"JAX_{name.upper()}"
            if value is None and (text := os.environ.get(variable)):
                if not text.isdigit():
                    raise InputError(f"{variable} is {text!r}; it must be a number.")
                value = int(text)
            numbers[name] = value
        address = self.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
        launch = dataclasses.replace(self, coordinator_address=address, **numbers)
        launch._check()
        return launch

    def _check(self) -> None:
        count, number, address = self.num_processes, self.process_id, self.coordinator_address
        for name in ("initialization_timeout", "heartbeat_timeout"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"--{name} is {getattr(self, name)}; it must be 1 or more seconds."
                )
        if count is not None and count < 1:
            raise InputError(f"--num_processes is {count}; it must be 1 or more.")
        if number is not None and not 0 <= number < (count or number + 1):
            raise InputError(
                f"--process_id is {number}; with --num_processes={count} it goes from 0 to "
                f"{(count or 1) - 1}."
            )
        if address is not None and not address.rpartition(":")[2].isdigit():
            raise InputError(
                f"--coordinator_address is {address!r}; it must be HOST:PORT, a free port of the "
                "machine of process 0."
            )


def start(launch: Launch | None = None) -> None:
    """Starts `jax.distributed`, where there are several processes; to be called before JAX is used.

    They are there when `launch` or JAX's environment variables say so, in a Slurm or Open MPI step
    of several tasks, in an indexed Kubernetes job and on a Cloud TPU; otherwise, and where
    `num_processes` is 1, nothing is done. Where not all processes come in time this process ends
    with status 2 and says so. From then on the processes watch over each other, see `watch`.

    Raises:
      InputError: when the values given cannot be used, or are not enough.
    """
    launch = (launch or Launch()).with_environment()
    given = {
        name: value
        for name in ("coordinator_address", "num_processes", "process_id")
        if (value := getattr(launch, name)) is not None
    }
    cluster = _cluster()
    if launch.num_processes == 1 or not (given or cluster):
        return
    if cluster is None and len(given) < 3:
        missing = {"coordinator_address", "num_processes", "process_id"} - given.keys()
        raise InputError(
            f"{', '.join(f'--{name}' for name in given)} given, but not "
            f"{', '.join(f'--{name}' for name in sorted(missing))}; outside Cloud TPU, Kubernetes, "
            "Slurm and Open MPI all three are needed, in every process."
        )
    if launch.process_id == 0 and launch.coordinator_address:
        _check_port(launch.coordinator_address)
    alarm = threading.Timer(launch.initialization_timeout, _give_up, [launch])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            **given,
            local_device_ids=_gpus() if cluster == "slurm" else None,
            initialization_timeout=launch.initialization_timeout + _GRACE_SECONDS,
            heartbeat_timeout_seconds=launch.heartbeat_timeout,
            shutdown_timeout_seconds=launch.heartbeat_timeout,
        )
    except (ValueError, RuntimeError) as error:
        if cluster != "tpu" or given or isinstance(error, RuntimeError):
            remedy = "Give"
            if cluster == "kubernetes" and importlib.util.find_spec("kubernetes") is None:
                remedy = "In Kubernetes, JAX needs the package 'kubernetes': install it, or give"
            raise InputError(
                f"The processes of this run cannot be brought together: {error} {remedy} "
                "--coordinator_address, --num_processes and --process_id in every process, or "
                "--num_processes=1 to run alone."
            ) from error
        logging.info("TPU chips without Cloud TPU's metadata: taken for a single machine.")
        return
    finally:
        alarm.cancel()
    atexit.register(watch.Watch().end, launch.heartbeat_timeout)


def _cluster() -> str | None:
    """What starts processes here by itself: "slurm", "openmpi", "kubernetes", "tpu" or None.

    Only signs of a job of several processes count. A shell inside an allocation is alone.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return "slurm"
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "openmpi"
    if "tpu" in os.environ.get("JAX_PLATFORMS", "tpu"):
        if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
            return "tpu"
        chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
        if chips and importlib.util.find_spec("libtpu"):
            return "tpu"
    if "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ:
        return "kubernetes"
    return None


def _gpus() -> list[int] | None:
    """The GPUs of this Slurm task among those it sees; None is JAX's choice, one by its number.

    That is not it where a task sees its own GPU alone, or has its node for itself.
    """
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = len(visible.split(",")) if visible else 0
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if count == 1 or (count and re.fullmatch(r"1(\(x\d+\))?", tasks)):
        return list(range(count))
    return None


def _check_port(address: str) -> None:
    """Raises InputError when another program listens where the coordinator is to: JAX crashes."""
    if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--coordinator_address is {address}, but process 0 cannot listen on port {port} of "
            f"this machine ({error}); give every process another port, or end what listens there."
        ) from error


def _give_up(launch: Launch) -> None:
    where = launch.coordinator_address or "the coordinator that the cluster names"
    who = "A process" if launch.process_id is None else f"Process {launch.process_id}"
    if launch.num_processes is not None:
        who += f" of {launch.num_processes}"
    print(
        f"error: {who} could not meet the others at {where} within "
        f"{launch.initialization_timeout} seconds. Check that process 0 runs on that machine, that "
        "its port can be reached from here, and that every process was started with the same "
        "--coordinator_address and --num_processes and its own --process_id; --num_processes=1 "
        "runs alone, --initialization_timeout waits longer.",
        file=sys.stderr,
        flush=True,
    )
    # The main thread cannot be woken: it is inside the runtime.
    os._exit(2)


@contextlib.contextmanager
def running(launch: Launch | None = None) -> Iterator[None]:
    """Starts the processes for a block of code; an error of one process ends it at once.

    JAX would let it wait for the others, which wait for it. They stop when they miss it.
    """
    start(launch)
    try:
        yield
    except (InputError, NonFiniteLossError, Stopped):
        raise  # All processes meet these.
    except BaseException as error:
        if process_count() == 1:
            raise
        if watch.is_loss(error):
            watch.end_after_loss(error)
        traceback.print_exc()
        print(
            f"Process {jax.process_index()} of {process_count()} ends with this error "
            f"({type(error).__name__}), and the others with it. When all have ended, start them "
            "again to continue from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def process_count() -> int:
    """Processes of this run; asking does not start JAX's devices."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes files and talks."""
    return process_count() == 1 or jax.process_index() == 0


class _Agreed(InputError):
    """An InputError that all processes raise."""


def _exchange(value: Any, refusal: str | None = None) -> list[Any]:
    """What every process gives, by its number; JSON values. All processes must call it.

    Raises:
      _Agreed: in all processes, when one of them refuses.
    """
    if process_count() == 1:
        return [value]
    from jax._src.distributed import global_state  # JAX has no public name for its client.

    client, number = global_state.client, next(_messages)
    assert client is not None  # There are several processes.
    me, count = jax.process_index(), process_count()

    def key(process: int | str) -> str:
        return f"dpt/{number}/{process}"

    client.key_value_set(key(me), json.dumps([value, refusal]))
    if me == 0:
        texts = [client.blocking_key_value_get(key(i), _A_DAY_IN_MS) for i in range(count)]
        client.key_value_set(key("all"), json.dumps(texts))
    everything = json.loads(client.blocking_key_value_get(key("all"), _A_DAY_IN_MS))
    values, refusals = zip(*map(json.loads, everything), strict=True)
    for process, text in enumerate(refusals):
        if text is not None:
            raise _Agreed(text if text == refusal else f"Process {process} cannot go on: {text}")
    return list(values)


def from_first(value: Any) -> Any:
    """The value, JSON, that process 0 gives, in every process; those of the others do not count."""
    return _exchange(value if is_first() else None)[0]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block in which input is checked: what one process refuses, all refuse, and none goes on.

    Raises:
      InputError: in all processes, when one raises it.
    """
    try:
        yield
    except _Agreed:
        raise
    except InputError as error:
        if process_count() == 1:
            raise
        _exchange(None, refusal=str(error))
    else:
        _exchange(None)


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """A block, inside `together`, that process 0 has done when the others begin it."""
    if not is_first():
        _exchange(None)
    yield
    if is_first():
        _exchange(None)


def check_same(what: str, facts: Mapping[str, Any]) -> None:
    """Compares facts, flat JSON, between the processes.

    Args:
      what: the facts' name, for the message.
      facts: values by name.

    Raises:
      InputError: in all processes, with every difference.
    """
    everyone = _exchange(dict(facts))
    first = everyone[0]
    lines = []
    for process, other in enumerate(everyone):
        for name in sorted(first.keys() | other.keys()):
            ours, theirs = (facts.get(name, "nothing") for facts in (first, other))
            if ours != theirs:
                lines.append(f"  {name}: process 0 has {ours}, process {process} {theirs}")
    if lines:
        shown = lines[:20] + ([f"  and {len(lines) - 20} more"] if lines[20:] else [])
        raise _Agreed(
            f"The processes of this run differ in their {what}; nothing was written:\n"
            + "\n".join(shown)
            + "\nStart every process with the same files and flags."
        )


def should_stop(step: int, received: list[int]) -> bool:
    """Whether the run is to stop after `step`, the same in all processes.

    Args:
      step: a step that all processes are at.
      received: the signals that this process has received, see `stop_signals`.
    """
    if jax.distributed.is_initialized():
        return multihost_utils.reached_preemption_sync_point(step)
    return bool(received)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in the list it yields; a second one acts as it would have.

    Of several processes JAX's runtime handles SIGTERM, which it tells to the others; SIGINT is
    handed on to it.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}
    several = jax.distributed.is_initialized()

    def handler(signum, frame):
        del frame
        received.append(signum)
        logging.warning("%s: saving before stopping.", signal.Signals(signum).name)
        signal.signal(signum, previous[signum])
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        for signum in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
            previous[signum] = signal.signal(signum, handler)
    except ValueError:
        # Only a process's main thread may handle signals; elsewhere the caller does.
        logging.info("Not in the main thread: signals are not handled.")
    try:
        yield received
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
