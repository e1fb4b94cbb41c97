"""A folder that is one writer's at a time, in this machine's file systems and in buckets.

Here, the system holds the lock, and lets it go when its processes have ended, however they end; a
network file system passes it on to other machines where it supports `flock` (NFS does).

A bucket knows no locks. There the holder writes its name into an object, and anew every
`HEARTBEAT_SECONDS`; what has stayed the same for `EXPIRY_SECONDS` is a dead holder's. To look and
to write are two steps there: a newcomer writes its name, waits for `SETTLE_SECONDS`, and has the
lock if the name is still its own. Two that come in the same moment are told apart unless a write
takes longer than that. A holder that could not write until it expired finds another's name, and
stops.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from dpt_jax.errors import InputError
from dpt_jax.files import remove, write_text
from dpt_jax.paths import as_path, in_bucket

# A scheduler restarts what was killed at once, and the processes of a killed sweep still save.
WAIT_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
EXPIRY_SECONDS = 60.0
SETTLE_SECONDS = 2.0
_POLL_SECONDS = 0.2


class Lock:
    """Who writes into a folder; see the module.

    Attributes:
      handle: what holds the lock, for processes that are to hold it as well; None in a bucket.
    """

    def __init__(self, path: str | os.PathLike, flag: str, taken: str):
        """Waits for the lock, and takes it.

        Args:
          path: the file that stands for the lock; its folder is made.
          flag: the flag or binding that gave the folder, for the messages.
          taken: what it means that another holds the lock, without a full stop.

        Raises:
          InputError: when another holds the lock and does not let go in some seconds, or the folder
            cannot be written.
        """
        self.handle: int | None = None
        self._path, self._flag, self._taken = as_path(path), flag, taken
        self._beat: _Heartbeat | None = None
        try:
            if in_bucket(self._path):
                self._beat = _Heartbeat(self._path, self._wait_for_expiry())
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._open()
        except InputError:
            raise
        except Exception as e:  # TensorFlow, which opens buckets, has errors of its own.
            raise InputError(
                f"{flag} = {self._path.parent} cannot be written: {e}. Name a place that can be "
                "written."
            ) from e

    def _open(self) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.read(handle, 1000).decode(errors="replace")
                    os.close(handle)
                    raise self._refused(holder) from None
                time.sleep(_POLL_SECONDS)
            except OSError as e:
                logging.warning("%s: this file system has no locks (%s).", self._path, e)
                break
        os.truncate(handle, 0)
        os.write(handle, _name().encode())
        self.handle = handle

    def _wait_for_expiry(self) -> str:
        """Waits until nobody holds the lock; returns the name that took it."""
        mine = _name()
        seen, since = None, time.monotonic()
        deadline = since + max(WAIT_SECONDS, EXPIRY_SECONDS + HEARTBEAT_SECONDS)
        while (found := _read(self._path)) is not None:
            now = time.monotonic()
            if found != seen:
                if seen is not None and _identity(found) == _identity(seen):
                    raise self._refused(found)
                if seen is None:
                    logging.warning(
                        "%s is held by %s. If that has died, the folder is free in %.0f seconds.",
                        self._path,
                        _holder(found),
                        EXPIRY_SECONDS,
                    )
                seen, since = found, now
            elif now - since > EXPIRY_SECONDS:
                break
            if now > deadline:
                raise self._refused(found)
            time.sleep(_POLL_SECONDS)
        write_text(self._path, mine)
        time.sleep(SETTLE_SECONDS)
        if (found := _read(self._path)) != mine:
            raise self._refused(found or "")
        return mine

    def _refused(self, holder: str) -> InputError:
        return InputError(
            f"{self._taken} ({_holder(holder)}). Wait for it, or give another {self._flag}."
        )

    def check(self) -> None:
        """Raises InputError when another has taken the lock in the meantime, as in a bucket."""
        if self._beat is not None and self._beat.lost:
            raise InputError(
                f"{self._path.parent} has been taken by another process, as this one could not "
                f"write to it for {EXPIRY_SECONDS:.0f} seconds. Nothing more is written."
            )

    def close(self) -> None:
        """Lets go, once the processes that were given the handle have ended as well."""
        if self._beat is not None:
            self._beat.end()
            self._beat = None
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


@contextlib.contextmanager
def locked(path: str | os.PathLike, flag: str, taken: str) -> Iterator[Lock]:
    """A block in which a `Lock` is held."""
    lock = Lock(path, flag, taken)
    try:
        yield lock
    finally:
        lock.close()


class _Heartbeat:
    """Writes the holder's name anew, again and again."""

    def __init__(self, path: Any, name: str):
        self.lost = False
        self._path, self._identity = path, _identity(name)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                found = _read(self._path)
                if not self._holds(found):
                    self.lost = True
                    return
                write_text(self._path, _name(self._identity))
            except Exception as e:  # Whatever the bucket's client says, it may work the next time.
                logging.warning("%s cannot be written: %s", self._path, e)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # What cannot be removed expires.
            if (found := _read(self._path)) is not None and self._holds(found):
                remove(self._path)

    def _holds(self, found: str | None) -> bool:
        """Whether the name is the holder's own, of an earlier heartbeat where one failed."""
        return found is None or _identity(found) == self._identity


def _name(identity: str | None = None) -> str:
    """A holder's name: where it is, and a time that changes with every heartbeat."""
    return json.dumps(
        {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "id": identity or uuid.uuid4().hex,
            "time": time.strftime("%Y-%m-%d %H:%M:%S") + f".{time.monotonic_ns()}",
        }
    )


def _holder(name: str) -> str:
    """A name for people."""
    try:
        found = json.loads(name)
        return f"process {found['process']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


def _identity(name: str) -> str | None:
    """What tells a holder from all others, of processes and machines with one name too."""
    try:
        return json.loads(name)["id"]
    except (ValueError, KeyError, TypeError):
        return None


def _read(path: Any) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
