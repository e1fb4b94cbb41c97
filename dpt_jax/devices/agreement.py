"""One run in several processes, by JAX's own runtime: how it starts, agrees and stops.

Every process runs the same program on its share of the devices. What must be the same in all of
them is compared before anything is compiled, and what is wrong in one of them is told by all. In a
single process every function here does what its name says of that one process.
"""

import contextlib
import itertools
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from dpt_jax.errors import InputError

# Waiting ends at once when the other process dies, which JAX's runtime finds out by itself.
_A_DAY_IN_MS = 24 * 60 * 60 * 1000


_messages = itertools.count()


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


def broadcast_from_first(value: Any) -> Any:
    """The value, JSON, that process 0 gives, in every process; those of the others do not count."""
    return _exchange(value if is_first() else None)[0]


@contextlib.contextmanager
def raise_everywhere() -> Iterator[None]:
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
def main_process_first() -> Iterator[None]:
    """A block, inside `raise_everywhere`, that process 0 has done when the others begin it."""
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
