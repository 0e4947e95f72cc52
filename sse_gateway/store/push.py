"""The push path: one subscription connection for the whole process, kept alive and proven alive.

Every channel is reference-counted; SUBSCRIBE is batched and acknowledged; UNSUBSCRIBE comes late,
since most browsers that leave are back within seconds. A connection can answer PING and deliver
nothing (seen after failovers), so what proves it is a message of our own coming back.

What this cannot promise: that nothing was published while the connection was down. So it says when
it was restored, and the gateway then catches every session up from its history.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable

from sse_gateway.core.errors import GatewayError, Refused, Unavailable
from sse_gateway.store.servers import Endpoint
from sse_gateway.store.subscriber import Receive, Subscriber

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
SUBSCRIBE_SECONDS = 5.0
BLINK_SECONDS = 1.5
"""A connection that is down for longer is an outage: nobody is kept waiting for it."""
LINGER_SECONDS = 10.0
"""How long a channel stays subscribed after its last stream left."""
PROBE_SECONDS = 10.0
CANCEL_SECONDS = 0.2
PROBE_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = (0.1, 2.0)
"""Before the next connection: at first, and at most while none is proven."""


class _Channel:
    """What is known of one channel."""

    __slots__ = ("_waited_for", "confirmed", "refs")

    def __init__(self) -> None:
        self.refs = 0
        self.confirmed = False
        """The present connection's SUBSCRIBE was confirmed."""
        self._waited_for: asyncio.Future[None] | None = None
        """Made only for those who wait: a future takes more memory than all the rest of an idle channel."""

    def confirmation(self) -> asyncio.Future[None]:
        """Return what is done at the next confirmation; others wait for it too, so nobody may cancel it."""
        if self._waited_for is None:
            self._waited_for = asyncio.get_running_loop().create_future()
        return self._waited_for

    def confirm(self) -> None:
        """Note that the channel is live, and tell those who wait."""
        self.confirmed = True
        if self._waited_for is not None:
            self._waited_for.set_result(None)
            self._waited_for = None


class Push:
    """Supervise the push connection.

    `endpoint` finds the server to connect to (anew each time: Sentinel may name another);
    `publish_probe` sends a payload to the probe channel by another connection. The channels that `pattern`
    matches and those in `always` are held for good.
    """

    def __init__(
        self,
        *,
        name: str,
        probe_channel: str,
        endpoint: Callable[[], Awaitable[Endpoint]],
        publish_probe: Callable[[str, str], Awaitable[None]],
        on_message: Receive,
        on_restored: Callable[[], None],
        pattern: bytes,
        always: Iterable[bytes] = (),
        probe_seconds: float = PROBE_SECONDS,
        probe_timeout_seconds: float = PROBE_TIMEOUT_SECONDS,
    ) -> None:
        self._name = name
        self._probe_channel = probe_channel
        self._probe_key = probe_channel.encode()
        self._endpoint = endpoint
        self._publish_probe = publish_probe
        self._on_message = on_message
        self._on_restored = on_restored
        self._pattern = pattern
        self._probe_seconds = probe_seconds
        self._probe_timeout_seconds = probe_timeout_seconds
        self._channels: dict[bytes, _Channel] = {name: _Channel() for name in (self._probe_key, *always)}
        for channel in self._channels.values():
            channel.refs = 1
        self._idle: dict[bytes, float] = {}
        """Channels nobody holds, with the time their last reference went; the oldest first."""
        self._subscriber: Subscriber | None = None
        self._wanted: list[bytes] = []
        """Channels to put into the next SUBSCRIBE."""
        self._probe: tuple[bytes, asyncio.Future[None]] | None = None
        self._pause = _PAUSE_SECONDS[0]
        self._task: asyncio.Task[None] | None = None
        self._down_since = 0.0
        """When the connection was last lost or first tried, on the loop's clock."""
        self.connected = False
        """All channels are subscribed on a connection that is up."""
        self.proven = False
        """A probe of ours came back on this connection, and none has failed since."""
        self.fault = ""
        """Why there is no connection, where that is known and somebody must act."""
        self.reconnects = 0
        self.probe_failures = 0

    def start(self) -> None:
        """Begin connecting; `connected` tells when it has come about."""
        self._down_since = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._supervise(), name="push")

    async def stop(self) -> None:
        """Close the connection for good."""
        while self._task is not None and not self._task.done():
            # Again and again: redis-py can swallow a cancellation that arrives together with a reply.
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=CANCEL_SECONDS)
        if self._subscriber is not None:
            self._subscriber.abort()

    @property
    def last_message_at(self) -> float:
        """Return when anything last arrived on this connection, in unix seconds; 0 before that."""
        return self._subscriber.last_data_at if self._subscriber is not None else 0.0

    @property
    def subscriptions(self) -> int:
        """Return how many channels are held, the probe's and lingering ones included."""
        return len(self._channels)

    async def acquire(self, channel: bytes) -> None:
        """Hold `channel`, returning once the server has confirmed it; raises Unavailable.

        Each return must be paired with one `release`; nothing is held when this raises.
        """
        entry = self._channels.get(channel)
        if entry is None or not entry.confirmed:
            self._refuse_when_long_down()
        if entry is None:
            entry = self._channels[channel] = _Channel()
            self._want(channel)
        entry.refs += 1
        self._idle.pop(channel, None)
        if entry.confirmed:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + SUBSCRIBE_SECONDS
        try:
            # A connection that was lost meanwhile takes its confirmations with it: wait for the next one's.
            while not entry.confirmed:
                left = until - loop.time()
                if left <= 0:
                    raise Unavailable
                await asyncio.wait((entry.confirmation(),), timeout=left)
        except BaseException:
            self.release(channel)
            raise

    def release(self, channel: bytes) -> None:
        """Give up one reference; the channel is unsubscribed some seconds after the last."""
        entry = self._channels[channel]
        entry.refs -= 1
        if entry.refs == 0:
            self._idle[channel] = asyncio.get_running_loop().time()

    def _refuse_when_long_down(self) -> None:
        """Raise Unavailable at once in an outage; a connection that blinks is waited for."""
        if not self.connected and asyncio.get_running_loop().time() - self._down_since > BLINK_SECONDS:
            raise Unavailable

    def _want(self, channel: bytes) -> None:
        if not self._wanted:
            asyncio.get_running_loop().call_soon(self._subscribe_wanted)
        self._wanted.append(channel)

    def _subscribe_wanted(self) -> None:
        wanted, self._wanted = self._wanted, []
        if self._subscriber is not None:
            self._subscriber.subscribe(wanted)

    def _confirmed(self, channel: bytes) -> None:
        entry = self._channels.get(channel)
        if entry is not None:
            entry.confirm()

    def _probed(self, payload: bytes) -> None:
        if self._probe is not None and self._probe[0] == payload and not self._probe[1].done():
            self._probe[1].set_result(None)

    async def _supervise(self) -> None:
        while True:
            try:
                await self._serve(await self._connect())
            except Exception as error:
                # Whatever it is: nobody would start this task again, and streams would stay open with nothing
                # to come.
                expected = isinstance(error, (OSError, TimeoutError, GatewayError))
                self.fault = error.message if isinstance(error, Refused) else ""
                logger.warning(
                    "push connection failed, retrying: %s",
                    str(error) or type(error).__name__,
                    exc_info=None if expected else error,
                )
            await asyncio.sleep(self._pause * random.random())
            self._pause = min(2 * self._pause, _PAUSE_SECONDS[1])

    async def _serve(self, subscriber: Subscriber) -> None:
        """Return, or raise, when the connection is over."""
        self.connected = True
        self.fault = ""
        logger.info("push connection up, %d channels", len(self._channels))
        try:
            self._on_restored()
            await self._watch(subscriber)
        finally:
            self._drop(subscriber)
            self.reconnects += 1
        logger.warning("push connection lost, reconnecting")

    async def _connect(self) -> Subscriber:
        async with asyncio.timeout(CONNECT_SECONDS):
            subscriber = await Subscriber.connect(
                await self._endpoint(),
                name=self._name,
                probe=self._probe_key,
                pattern=self._pattern,
                on_message=self._on_message,
                on_probe=self._probed,
                on_subscribed=self._confirmed,
            )
        self._subscriber = subscriber
        try:
            subscriber.subscribe(self._channels)
            for entry in list(self._channels.values()):
                if entry.confirmed:
                    continue
                async with asyncio.timeout(SUBSCRIBE_SECONDS):
                    await asyncio.wait(
                        (entry.confirmation(), subscriber.lost), return_when=asyncio.FIRST_COMPLETED
                    )
                if subscriber.refusal is not None:
                    raise subscriber.refusal
                if subscriber.lost.done():
                    raise ConnectionResetError("closed while subscribing")
        except BaseException:
            self._drop(subscriber)
            raise
        return subscriber

    def _drop(self, subscriber: Subscriber) -> None:
        subscriber.abort()
        self._subscriber = None
        if self.connected:
            self._down_since = asyncio.get_running_loop().time()
        self.connected = self.proven = False
        for entry in self._channels.values():
            entry.confirmed = False

    async def _watch(self, subscriber: Subscriber) -> None:
        """Return when the connection is lost or a probe proves it dead."""
        loop = asyncio.get_running_loop()
        next_probe = loop.time()
        while not subscriber.lost.done():
            if loop.time() >= next_probe:
                heard = await self._probe_once(subscriber)
                if heard is False:
                    self.probe_failures += 1
                    logger.warning("push connection is up but delivers nothing; replacing it")
                    return
                # Without an answer from the command path nothing is known: ask again soon.
                pause = self._probe_seconds if heard else 1.0
                next_probe = loop.time() + pause * random.uniform(0.9, 1.1)
            self._unsubscribe_idle(subscriber)
            await asyncio.wait((subscriber.lost,), timeout=min(1.0, max(0.0, next_probe - loop.time())))

    async def _probe_once(self, subscriber: Subscriber) -> bool | None:
        """Return whether our own message came back; None when it could not be sent at all."""
        payload = f"{time.time_ns():x}"
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._probe = (payload.encode(), heard)
        try:
            try:
                await self._publish_probe(self._probe_channel, payload)
            except GatewayError:
                self.proven = False
                return None
            await asyncio.wait(
                (heard, subscriber.lost),
                timeout=self._probe_timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            self.proven = heard.done()
            if self.proven:
                self._pause = _PAUSE_SECONDS[0]
            return self.proven or (None if subscriber.lost.done() else False)
        finally:
            self._probe = None

    def _unsubscribe_idle(self, subscriber: Subscriber) -> None:
        """Unsubscribe what nobody has held for a while, confirmed channels only.

        A channel whose SUBSCRIBE is still on its way is left for the next turn, so that at most one
        confirmation is ever outstanding for it.
        """
        horizon = asyncio.get_running_loop().time() - LINGER_SECONDS
        gone = []
        for channel, since in self._idle.items():
            if since > horizon:
                break
            if self._channels[channel].confirmed:
                gone.append(channel)
        for channel in gone:
            del self._idle[channel], self._channels[channel]
        subscriber.unsubscribe(gone)
