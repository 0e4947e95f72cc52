"""Finding what pub/sub lost without a trace: nothing followed that could have shown a gap.

That may also be a session's end. Each session's position is compared with the one in Redis at a low rate,
batch by batch, jittered.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

from sse_gateway.core.errors import GatewayError
from sse_gateway.delivery.feed import Feed
from sse_gateway.store.history import History

logger = logging.getLogger(__name__)

BATCH = 100
POSITION_CHECK_SECONDS = 10.0
"""Every session is compared once in about this time."""
_IN_FLIGHT_SECONDS = 0.3
"""An event that Redis has may still be on its way here."""


class Positions:
    """Compare positions for ever; `on_stale` is called with a feed whose history has to be read."""

    def __init__(
        self,
        history: History,
        *,
        feeds: Callable[[], Iterable[Feed]],
        on_stale: Callable[[Feed], None],
        seconds: float = POSITION_CHECK_SECONDS,
    ) -> None:
        self._history = history
        self._feeds = feeds
        self._on_stale = on_stale
        self._seconds = seconds

    async def run(self) -> None:
        """Go round and round."""
        while True:
            feeds = [feed for feed in self._feeds() if feed.epoch]
            random.shuffle(feeds)
            batches = [feeds[i : i + BATCH] for i in range(0, len(feeds), BATCH)]
            pause = self._seconds * random.uniform(0.8, 1.2) / max(1, len(batches))
            for batch in batches or [[]]:
                try:
                    await self._compare(batch)
                except Exception:
                    # Nobody would start this again, and it is what finds what nothing else does.
                    logger.exception("positions could not be compared")
                await asyncio.sleep(pause)

    async def _compare(self, feeds: list[Feed]) -> None:
        known = [feed.position for feed in feeds]
        found = await self._history.positions([feed.session_id for feed in feeds])
        ahead = []
        for feed, before, there in zip(feeds, known, found, strict=True):
            if isinstance(there, GatewayError):
                continue
            epoch, seq = there.cursor if there is not None else ("", 0)
            if epoch != feed.epoch or seq < before.seq:
                self._on_stale(feed)
            elif there is not None and (there.ended or seq > feed.last):
                ahead.append((feed, there))
        if ahead:
            await asyncio.sleep(_IN_FLIGHT_SECONDS)
            for feed, (cursor, ended) in ahead:
                late = feed.epoch == cursor.epoch and (ended or feed.last < cursor.seq)
                if late and not feed.unused:
                    self._on_stale(feed)
