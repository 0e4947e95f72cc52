"""Having the function library on every primary: from the start, after each reconnect, where a slot may go.

Calls load what they miss by themselves; this is for those who bring no library (`redis-cli FCALL`, agents in
other languages), and so that a gateway is ready only when the first of them will succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.store.connection import Store

logger = logging.getLogger(__name__)

LAYOUT_SECONDS = 10.0
"""How often a Cluster is asked whether it has another primary."""
_RETRY_SECONDS = 0.5
_FAULT_SECONDS = 5.0


class Functions:
    """Keep the library loaded; `on_tried` is called after the first try that follows each `renew`."""

    def __init__(self, store: Store, *, on_tried: Callable[[], None]) -> None:
        self._store = store
        self._on_tried = on_tried
        self._tasks = Tasks()
        self._loading: asyncio.Task[None] | None = None
        self.loaded = False
        """Every primary had the library when last looked."""

    def start(self) -> None:
        """Start watching a Cluster's layout; one server is looked at when asked to."""
        if self._store.is_cluster:
            self._tasks.spawn(self._watch_layout(), name="cluster layout")

    async def stop(self) -> None:
        """Stop."""
        await self._tasks.stop()

    def renew(self) -> None:
        """Look again, since the server may be another one than before."""
        self.loaded = False
        if self._loading is not None:
            self._loading.cancel()
        self._loading = self._tasks.spawn(self._load(), name="load functions")

    async def _load(self) -> None:
        """Try until it is done, but let the rest go on after the first try.

        A dead node of a Cluster must not hold up the sessions of the others.
        """
        pause = await self._try()
        self._on_tried()
        while pause:
            await asyncio.sleep(pause)
            pause = await self._try()

    async def _try(self) -> float:
        """Return after how many seconds to try again; 0 when it is done."""
        try:
            await self._store.ensure_library()
        except Unavailable:
            return _RETRY_SECONDS
        except GatewayError as error:
            logger.error("the function library cannot be loaded: %s", error.message)
            return _FAULT_SECONDS
        self.loaded = True
        return 0

    async def _watch_layout(self) -> None:
        known = None
        while True:
            with contextlib.suppress(GatewayError):
                generation = await self._store.refresh_layout()
                if known is not None and generation != known:
                    await self._store.ensure_library()
                known = generation
            await asyncio.sleep(LAYOUT_SECONDS)
