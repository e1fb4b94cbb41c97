"""What a process does when another one of its run dies: it says so, once, and ends as well.

JAX's runtime finds out, by heartbeats that stay away or a connection that breaks, and would end the
process by SIGABRT with a stack trace of its own. What it tells Python is that a barrier fails, at
the same moment. So a thread waits at one, and mostly comes first.
"""

import contextlib
import os
import re
import sys
import textwrap
import threading
from typing import Any, NoReturn

import jax

# As long as the runtime's 32 bits of milliseconds let it: 24 days. A longer run goes on unwatched.
_FOR_EVER_IN_MS = 2_000_000_000
# How the runtime, Gloo (CPU) and NCCL (GPU) speak of a process that is gone.
_LOSS = re.compile(
    r"heartbeat|coordination service|Barrier failed|gloo|NCCL.*(remote process|network|connect)",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"Task (\d+) heartbeat timeout")
_speaking = threading.Lock()
_checkpoint: str | None = None


def note_checkpoint(path: object) -> None:
    """Notes the checkpoint that a restart would continue from."""
    global _checkpoint
    _checkpoint = str(path)


def is_loss(error: BaseException) -> bool:
    """Whether an error is what a computation says when a process that takes part in it is gone."""
    return isinstance(error, jax.errors.JaxRuntimeError) and bool(_LOSS.search(str(error)))


def end_after_loss(error: BaseException) -> NoReturn:
    """Says what was lost and how to go on, and ends this process with status 1."""
    _speaking.acquire()  # For good: one message is enough.
    from jax._src.distributed import global_state as runtime  # JAX has no public name for it.

    me, count = runtime.process_id, runtime.num_processes
    text = " ".join(str(error).split())
    if number := _NUMBER.search(text):
        lost = f"process {number.group(1)} of {count} has died"
    elif text.startswith("UNAVAILABLE") and me != 0:
        lost = f"process 0 of {count}, at {runtime.coordinator_address}, has died"
    elif count == 2:
        lost = f"process {1 - me} of 2 has died"
    else:
        lost = f"one of the {count} processes has died"
    start = "from its beginning: there is no checkpoint yet"
    if _checkpoint is not None:
        start = f"from {_checkpoint}"
    print(
        f"\nerror: {lost} or cannot be reached, so process {me} ends too. When all have ended, the "
        f"same command goes on {start}. JAX says: {textwrap.shorten(text, 200)}",
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    # Leaving in order would wait for the others.
    os._exit(1)


class Watch:
    """Watches over the other processes, from its making to its `end`.

    Process 0 waits at a barrier that the others reach at the end of the run, and they wait at
    another one that process 0 reaches then. Either fails for all when one of them dies.
    """

    def __init__(self) -> None:
        """Starts to watch; `jax.distributed` must have been started."""
        from jax._src.distributed import global_state

        self._client: Any = global_state.client
        names = ["dpt/last", "dpt/first"]
        if global_state.process_id == 0:
            names.reverse()
        self._mine, self._theirs = names
        self._ending = False
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self._client.wait_at_barrier(self._mine, _FOR_EVER_IN_MS)
        except jax.errors.JaxRuntimeError as error:
            if not self._ending and not str(error).startswith("DEADLINE_EXCEEDED"):
                end_after_loss(error)

    def end(self, seconds: int) -> None:
        """Ends the watch when all processes call this, which are waited for that long.

        To be called as the process ends: an error that it meets alone has been told by then.
        """
        self._ending = True
        # Those that do not come, or that die now, are no matter of this process any more.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.wait_at_barrier("dpt/end", seconds * 1000)
            self._client.wait_at_barrier(self._theirs, seconds * 1000)
            # A thread that is inside the runtime when Python ends would abort it.
            self._thread.join()
