"""Wait for conditions, never for luck: each wait names what it waited for when its time is up."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

INTERVAL_SECONDS = 0.02


class Hopeless(AssertionError):
    """Raised by a condition that can no longer come true, so that nobody waits for it."""


def alive(pid: int) -> bool:
    """Say whether a process exists; a zombie, which nobody reaped yet, is gone for every purpose."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"


def listening(port: int) -> bool:
    """Say whether somebody accepts connections on 127.0.0.1:port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


async def until(
    condition: Callable[[], Any | Awaitable[Any]],
    what: str,
    *,
    seconds: float = 10.0,
    every: float = INTERVAL_SECONDS,
) -> Any:
    """Wait until `condition()` is true and return its value; `what` is the condition in words.

    An exception from the condition counts as "not yet", and the last one is shown when the time is up.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            last = value
        except Hopeless:
            raise
        except Exception as error:  # noqa: BLE001 (a server that is not up yet may raise anything)
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s for: {what}; last seen: {last!r}")
        await asyncio.sleep(every)


def until_sync(
    condition: Callable[[], Any], what: str, *, seconds: float = 10.0, every: float = INTERVAL_SECONDS
) -> Any:
    """Do the same as `until` outside an event loop."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except Hopeless:
            raise
        except Exception as error:  # noqa: BLE001
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s for: {what}; last seen: {last!r}")
        time.sleep(every)
