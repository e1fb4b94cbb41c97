"""Starting a run in several processes, by JAX's own runtime."""

import atexit
import contextlib
import dataclasses
import glob
import importlib.util
import logging
import os
import re
import socket
import sys
import threading
import traceback
from collections.abc import Iterator

import jax

from dpt_jax.devices import watch
from dpt_jax.devices.agreement import process_count
from dpt_jax.errors import InputError, NonFiniteLossError, Stopped

# JAX gives up connecting by ending the process with a stack trace; we give up before it does.
_GRACE_SECONDS = 60


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
