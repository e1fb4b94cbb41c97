"""Runs of `dpt train` in several processes with a few virtual CPU devices each."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start(argv, devices: int, module: str = "dpt_jax", **variables: str) -> subprocess.Popen:
    """Starts a process with `devices` virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags.strip()} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_all(argvs, devices: int, **flags) -> list[subprocess.Popen]:
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
