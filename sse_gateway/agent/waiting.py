"""Wait for decisions: any number of requests, over any number of sessions, on one connection.

How a decision is never missed, and nothing waits for ever:

  * the listener's hint, that a request was settled, makes us ask Redis at once (`sse_decision`);
  * whenever a session's channel begins to be listened to, at first or after a reconnect, all its waiting
    requests are asked for, since what was settled before was told to nobody;
  * so are they at their deadlines, and every `recheck_seconds` (each second while the channel is not
    listened to), which finds what was lost without a trace; then the connection is doubted and replaced;
  * a request that Redis lost, restarted without its data, is asked again with the time that it has left,
    unless its task was cancelled; its withdrawal comes after all askings.

Looks that fall due together go in one round trip.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

from sse_gateway.agent.agenda import Agenda, Wait
from sse_gateway.agent.asks import Ask
from sse_gateway.agent.calls import Again, Calls, Pauses
from sse_gateway.agent.decisions import Decision, check_digest
from sse_gateway.agent.ending import ended
from sse_gateway.agent.listener import Listener
from sse_gateway.core.errors import GatewayError, Unavailable

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 20.0
UNHEARD_SECONDS = 1.0
"""How often to look while a session's channel is not listened to."""
WITHDRAW_SECONDS = 2.0
"""How long a cancelled task waits for its request's cancellation, which goes on without it if need be."""
VIEWER_SECONDS = 5.0
"""How often to look whether somebody is watching, where that matters."""
ABSENCE_SECONDS = 1.0
"""How long nobody has to be seen before that counts: a stream that opens is counted a moment later."""
RETURN_SECONDS = 4.0
"""How long gateways may take to be back, and to tell who is watching, once Redis has been away."""
LATE_SECONDS = 2.0
"""A decision that is as old as this when we find it by ourselves should have been heard of."""
_WITHDRAWAL = "sse agent withdrawal"
_LOOK_SECONDS = 0.1
"""A look that takes longer than this goes on beside the next: one node of a Cluster must not hold up all."""


class Waiting:
    """Ask, and wait until settled."""

    def __init__(self, calls: Calls, listener: Listener, *, recheck_seconds: float) -> None:
        self._calls = calls
        self._listener = listener
        self._recheck_seconds = recheck_seconds
        self._keys = calls.library.keys
        self._waits: dict[str, list[Wait]] = {}
        """Session's channel → its waiting requests."""
        self._agenda = Agenda()
        self._pauses = Pauses()
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def count(self) -> int:
        """Return how many requests are being waited for."""
        return sum(len(waits) for waits in self._waits.values())

    async def decide(self, ask: Ask, *, withdraw_on_cancel: bool) -> Decision:
        """Ask and return the decision; cancelled, withdraw the request (within WITHDRAW_SECONDS)."""
        wait = Wait(ask)
        # In a task of its own, so that a cancellation cannot tear the asking apart: a request that is on its
        # way could otherwise reach Redis after its own withdrawal.
        asking = self._spawn(self._ask_and_wait(wait))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if asking.cancelled() and task is not None and not task.cancelling():
                raise Unavailable("The client was closed while a request was waiting; ask again.") from None
            wait.withdrawn = True
            withdrawal = self._spawn(
                self._withdraw(wait, asking, cancel=withdraw_on_cancel), name=_WITHDRAWAL
            )
            await asyncio.wait((withdrawal,), timeout=WITHDRAW_SECONDS)
            raise

    async def close(self) -> None:
        """Let go of everything. Requests stay as they are: the agent that asks again finds them."""
        self._closed = True
        withdrawals = [task for task in self._tasks if task.get_name() == _WITHDRAWAL]
        if withdrawals:
            await asyncio.wait(withdrawals, timeout=WITHDRAW_SECONDS)
        tasks = [*self._tasks, *([self._looking] if self._looking is not None else [])]
        await ended(*tasks)

    def heard(self, channel: str, payload: bytes) -> None:
        """Look at what a message says was settled; one that says nothing clear means all of the session."""
        try:
            settled = json.loads(payload)["request_id"]
        except (ValueError, KeyError, TypeError):
            settled = None
        for wait in self._waits.get(channel, ()):
            if settled is None or wait.ask.request_id == settled:
                wait.heard = True
                self._look_at(wait, 0.0)

    def live(self, channel: str) -> None:
        """Look at all requests of a session whose channel has just begun to be listened to."""
        for wait in self._waits.get(channel, ()):
            if wait.asked.is_set():
                self._look_at(wait, 0.0)

    # Asking

    async def _ask_and_wait(self, wait: Wait) -> Decision:
        channel = self._keys.answers_channel(wait.ask.session_id)
        self._listener.listen(channel)
        live_before = self._listener.live_since(channel)
        self._waits.setdefault(channel, []).append(wait)
        try:
            try:
                reply = await self._ask(wait)
            finally:
                wait.asked.set()
            await self._took(wait, reply, pause=UNHEARD_SECONDS)
            if not wait.decision.done() and self._listener.live_since(channel) != live_before:
                self._look_at(wait, 0.0)
            return check_digest(await wait.decision, wait.ask.digest)
        finally:
            if wait.decision.done() and not wait.decision.cancelled():
                wait.decision.exception()  # marked as seen
            waits = self._waits[channel]
            waits.remove(wait)
            if not waits:
                del self._waits[channel]
            self._listener.unlisten(channel)

    async def _ask(self, wait: Wait) -> Any:
        """Ask until Redis has answered, for as long as the asker would wait for a human."""
        loop = asyncio.get_running_loop()
        ask = wait.ask
        pauses = Pauses()
        while True:
            left = wait.deadline - loop.time()
            body = ask.encode(None if ask.timeout is None else max(left, 0.001))
            try:
                return await self._calls.attempt("ask", ask.session_id, body, ask.owner)
            except Again as again:
                pause = pauses.next()
                self._doubt_absence(wait)
                if wait.withdrawn or loop.time() + pause >= wait.deadline:
                    raise again.error from again.__cause__
            await asyncio.sleep(pause)

    async def _withdraw(self, wait: Wait, asking: asyncio.Task[Decision], *, cancel: bool) -> None:
        await wait.asked.wait()
        await ended(asking)
        ask = wait.ask
        async with wait.asking_again:
            # What was on its way has arrived, and nothing follows it.
            pass
        others = self._waits.get(self._keys.answers_channel(ask.session_id), ())
        if not cancel or any(other.ask.request_id == ask.request_id for other in others):
            return
        try:
            await self._calls.call(
                "cancel", ask.session_id, ask.request_id, "the task that asked was cancelled"
            )
        except GatewayError as error:
            if error.code != "unknown_request":
                logger.warning("request %s could not be withdrawn: %s", ask.request_id, error)

    # Looking

    def _look_at(self, wait: Wait, seconds: float) -> None:
        self._agenda.put(wait, seconds)
        if self._looking is None and not self._closed:
            self._looking = asyncio.create_task(self._look_when_due(), name="sse agent looks")

    async def _look_when_due(self) -> None:
        while True:
            look = self._spawn(self._look(await self._agenda.due()))
            # Awaited for a moment, so that what falls due meanwhile goes together.
            await asyncio.wait((look,), timeout=_LOOK_SECONDS)

    async def _look(self, due: list[Wait]) -> None:
        """Ask how the requests stand, all in one round trip."""
        try:
            replies = await self._calls.attempt_many(
                "decision", [(wait.ask.session_id, wait.ask.request_id) for wait in due]
            )
        except Exception:
            # Whatever it was: nobody else would look at these again.
            logger.exception("looking at waiting requests failed")
            replies = [Again(Unavailable())] * len(due)
        if not any(isinstance(reply, Again) for reply in replies):
            self._pauses = Pauses()
        pause = self._pauses.next()
        await asyncio.gather(
            *(self._took(wait, reply, pause=pause) for wait, reply in zip(due, replies, strict=True))
        )

    async def _took(self, wait: Wait, reply: Any, *, pause: float) -> None:
        """Take a reply, or a failure in its place; after one that may pass, look again in `pause` seconds."""
        try:
            if isinstance(reply, GatewayError) and reply.code == "unknown_request":
                await self._ask_again(wait)
            elif isinstance(reply, Exception):
                raise reply
            else:
                await self._take(wait, _standing(reply))
        except Again as again:
            self._doubt_absence(wait)
            if asyncio.get_running_loop().time() > wait.deadline + self._calls.seconds:
                wait.fail(again.error)
            else:
                self._look_at(wait, pause)
        except GatewayError as error:
            wait.fail(error)

    async def _ask_again(self, wait: Wait) -> None:
        """Ask for what Redis has lost, or find that its time is over, or that nobody waits for it now."""
        ask = wait.ask
        async with wait.asking_again:
            if wait.withdrawn or wait.decision.done():
                return
            left = wait.deadline - asyncio.get_running_loop().time()
            if left <= 0:
                wait.settle(Decision.expired(ask.request_id, ask.digest))
                return
            logger.warning("Redis has lost the request %s; asking again", ask.request_id)
            self._doubt_absence(wait)
            reply = await self._calls.attempt("ask", ask.session_id, ask.encode(left), ask.owner)
        await self._take(wait, _standing(reply))

    async def _take(self, wait: Wait, standing: dict[str, Any]) -> None:
        """Settle the wait, or see when to look again."""
        if wait.decision.done():
            return
        if standing["status"] == "decided":
            decision = Decision.parse(standing["decision"])
            self._check_hearing(wait, decision)
            wait.settle(decision)
            return
        wait.expires_ms = round(datetime.fromisoformat(standing["expires_at"]).timestamp() * 1000)
        left = wait.expires_ms / 1000 - (time.time() + self._listener.clock_offset)
        if wait.ask.timeout is None:
            wait.deadline = asyncio.get_running_loop().time() + left
        if wait.ask.no_viewer_seconds is not None and await self._gave_up(wait, standing["viewers"]):
            return
        self._look_at(wait, self._next_look(wait, left))

    def _next_look(self, wait: Wait, left: float) -> float:
        """Return in how many seconds to look again."""
        if left <= 0:
            wait.overdue += 1
            return float(min(0.05 * 2**wait.overdue, 2.0))
        channel = self._keys.answers_channel(wait.ask.session_id)
        heard = self._listener.live_since(channel) is not None
        usual = self._recheck_seconds if heard else min(UNHEARD_SECONDS, self._recheck_seconds)
        seconds = usual * random.uniform(0.75, 1.25)
        given = wait.ask.no_viewer_seconds
        if given is not None:
            patience = max(given, ABSENCE_SECONDS)
            if wait.unseen_since is not None:
                patience -= asyncio.get_running_loop().time() - wait.unseen_since
            elif not given:
                # "At once" is about the time of asking; somebody was there.
                patience = VIEWER_SECONDS
            seconds = min(seconds, max(0.05, min(VIEWER_SECONDS, patience)))
        # A little late rather than a little early: then this very look settles it.
        return min(seconds, left + 0.02)

    async def _gave_up(self, wait: Wait, viewers: int) -> bool:
        """Cancel the request if nobody was watching for too long; Redis has the last word on "nobody"."""
        ask = wait.ask
        now = asyncio.get_running_loop().time()
        if viewers:
            wait.unseen_since = None
            return False
        if wait.unseen_since is None:
            wait.unseen_since = max(now, wait.absence_from)
        assert ask.no_viewer_seconds is not None
        if now - wait.unseen_since < max(ask.no_viewer_seconds, ABSENCE_SECONDS):
            return False
        standing = _standing(
            await self._calls.attempt("cancel", ask.session_id, ask.request_id, "", "no_viewer")
        )
        if standing["status"] == "decided":
            wait.settle(Decision.parse(standing["decision"]))
            return True
        wait.unseen_since = None
        return False

    def _doubt_absence(self, wait: Wait) -> None:
        """Begin anew to see that nobody is there: Redis was away, and the gateways have to come back too."""
        wait.unseen_since = None
        wait.absence_from = asyncio.get_running_loop().time() + RETURN_SECONDS

    def _check_hearing(self, wait: Wait, decision: Decision) -> None:
        """Doubt the connection if this decision should have been heard of long ago."""
        since = self._listener.live_since(self._keys.answers_channel(wait.ask.session_id))
        if wait.heard or since is None or decision.decided_at is None or not wait.expires_ms:
            return
        decided = decision.decided_at.timestamp() - self._listener.clock_offset
        if decided > since + LATE_SECONDS and time.time() - decided > LATE_SECONDS:
            self._listener.doubt("a decision was not heard on it")

    def _spawn(self, work: Coroutine[Any, Any, Any], *, name: str = "sse agent") -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _standing(reply: bytes | str) -> dict[str, Any]:
    standing: dict[str, Any] = json.loads(reply)
    return standing
