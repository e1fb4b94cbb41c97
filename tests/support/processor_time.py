"""Tells what each test costs in processor time, which other load on the machine does not change.

    python -m pytest -p tests.support.processor_time --processor-time=30 ...

It ends with the costliest files and phases of tests (fixtures count as the setup of the first test
that asks for them): seconds of this process, of the processes it waited for and of those of
`tests.support.processes`, and how many programs this process asked XLA for. `--processor-time=0`
shows all. `--processor-time-file` names a file that has a line for each as soon as it is known.
"""

import collections
import os
import pathlib
import resource
import sys
import time

import pytest

_programs = 0
_listening = False


def _count(event: str, *_, **__) -> None:
    global _programs
    _programs += event == "/jax/core/compile/backend_compile_duration"


def _of_server() -> float:
    """Seconds of the fork server's processes that have ended, and of itself."""
    forkserver = sys.modules.get("multiprocessing.forkserver")
    pid = forkserver and forkserver._forkserver._forkserver_pid
    if not pid or not pathlib.Path(f"/proc/{pid}/stat").exists():
        return 0.0
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _spent() -> tuple[float, int]:
    """Seconds of processors and programs so far."""
    global _listening
    # Not imported for this: a test may be the first that needs it.
    if "jax" in sys.modules and hasattr(sys.modules["jax"], "monitoring") and not _listening:
        sys.modules["jax"].monitoring.register_event_duration_secs_listener(_count)
        _listening = True
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + ended.ru_utime + ended.ru_stime + _of_server()
    return seconds, _programs


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("processor time")
    group.addoption("--processor-time", type=int, default=30, metavar="N", help="show N costliest")
    group.addoption("--processor-time-file", metavar="FILE", help="write all of them to FILE")


_start = (0.0, 0)
_file = None


def pytest_configure(config: pytest.Config) -> None:
    global _file
    name = config.getoption("--processor-time-file")
    if name and not hasattr(config, "workerinput"):  # xdist's processes send what they measure.
        _file = open(name, "w", buffering=1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart() -> None:
    global _start
    _start = _spent()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    global _start
    report = yield
    now = _spent()
    # A report's attributes come back from xdist's processes.
    report.processor_time = (now[0] - _start[0], now[1] - _start[1])
    _start = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _file and hasattr(report, "processor_time"):
        _file.write(_line(*report.processor_time, report.when, report.nodeid) + "\n")


def _line(seconds: float, programs: int, *rest: str) -> str:
    return f"{seconds:8.2f} s {programs:6d}  {'  '.join(rest)}"


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    phases = [
        (*report.processor_time, report.when, report.nodeid)
        for reports in terminalreporter.stats.values()
        for report in reports
        if hasattr(report, "processor_time")
    ]
    files: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
    for seconds, programs, _, test in phases:
        files[test.partition("::")[0]][0] += seconds
        files[test.partition("::")[0]][1] += programs
    by_file = sorted(((*cost, file) for file, cost in files.items()), reverse=True)
    phases.sort(reverse=True)
    total = sum(phase[0] for phase in phases)
    terminalreporter.section(f"processor time: {total:.0f} s, programs asked for")
    shown = config.getoption("--processor-time") or None
    for costs in (by_file[:shown], phases[:shown]):
        for cost in costs:
            terminalreporter.write_line(_line(*cost))
        terminalreporter.write_line("")
