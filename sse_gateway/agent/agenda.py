"""When to look at which waiting request again."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math

from sse_gateway.agent.asks import Ask
from sse_gateway.agent.decisions import Decision
from sse_gateway.core.errors import GatewayError

_DEFAULT_TIMEOUT = 300.0


class Wait:
    """One request that one task waits for."""

    __slots__ = (
        "absence_from",
        "ask",
        "asked",
        "asking_again",
        "check_at",
        "deadline",
        "decision",
        "expires_ms",
        "heard",
        "overdue",
        "unseen_since",
        "withdrawn",
    )

    def __init__(self, ask: Ask) -> None:
        loop = asyncio.get_running_loop()
        self.ask = ask
        self.asked = asyncio.Event()
        """The first asking is over, whichever way."""
        self.asking_again = asyncio.Lock()
        """Held while what Redis lost is asked again."""
        self.withdrawn = False
        self.decision: asyncio.Future[Decision] = loop.create_future()
        self.deadline = loop.time() + (ask.timeout or _DEFAULT_TIMEOUT)
        """In the loop's time; the true one is never later, and earlier if it was asked before."""
        self.expires_ms = 0
        """The deadline on Redis's clock."""
        self.check_at = math.inf
        """When to look next, in the loop's time."""
        self.heard = False
        self.overdue = 0
        """How often it was found pending after its deadline: our clock and Redis's differ."""
        self.unseen_since: float | None = None
        """Since when nobody was watching, in the loop's time; None: somebody is, or it is not known."""
        self.absence_from = 0.0
        """The earliest time from which that counts."""

    def settle(self, decision: Decision) -> None:
        """Give the decision to whoever waits."""
        if not self.decision.done():
            self.decision.set_result(decision)

    def fail(self, error: GatewayError) -> None:
        """Let whoever waits know that no decision will come."""
        if not self.decision.done():
            self.decision.set_exception(error)


class Agenda:
    """Keep the requests in the order in which to look at them."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Wait]] = []
        """(When, a number, the request); entries that were superseded stay until their time."""
        self._numbers = itertools.count()
        self._changed = asyncio.Event()

    def put(self, wait: Wait, seconds: float) -> None:
        """Look in so many seconds, or earlier if that was said already.

        Never later: what is heard of while a look is on its way is not in that look's answer.
        """
        at = asyncio.get_running_loop().time() + seconds
        if at >= wait.check_at:
            return
        wait.check_at = at
        heapq.heappush(self._heap, (at, next(self._numbers), wait))
        self._changed.set()

    async def due(self) -> list[Wait]:
        """Wait until requests are to be looked at, and return them all."""
        while True:
            self._changed.clear()
            due = self._take_due()
            if due:
                return due
            delay = self._heap[0][0] - asyncio.get_running_loop().time() if self._heap else None
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _take_due(self) -> list[Wait]:
        now = asyncio.get_running_loop().time()
        due = []
        while self._heap and self._heap[0][0] <= now:
            at, _, wait = heapq.heappop(self._heap)
            if at == wait.check_at and not wait.decision.done():
                wait.check_at = math.inf
                due.append(wait)
        return due
