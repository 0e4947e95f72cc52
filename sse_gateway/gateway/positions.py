"""Finding what pub/sub lost without a trace: nothing followed that could have shown a gap.

That may also be a session's end. Each session's position is compared with the one in Redis at a low rate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from sse_gateway.core.errors import GatewayError
from sse_gateway.delivery.feed import Feed
from sse_gateway.gateway.rounds import go_round
from sse_gateway.store.history import History, Position

logger = logging.getLogger(__name__)

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
        await go_round(self._feeds, self._compare, seconds=self._seconds)

    async def _compare(self, feeds: list[Feed]) -> None:
        try:
            await self._find_stale([feed for feed in feeds if feed.epoch])
        except Exception:
            # Nobody would start this again, and it is what finds what nothing else does.
            logger.exception("positions could not be compared")

    async def _find_stale(self, feeds: list[Feed]) -> None:
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
            # Nobody waits for it: where much is published there is nearly always something.
            asyncio.get_running_loop().call_later(_IN_FLIGHT_SECONDS, self._look_again, ahead)

    def _look_again(self, ahead: list[tuple[Feed, Position]]) -> None:
        for feed, (cursor, ended) in ahead:
            late = feed.epoch == cursor.epoch and (ended or feed.last < cursor.seq)
            if late and not feed.unused:
                self._on_stale(feed)
