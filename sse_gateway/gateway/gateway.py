"""One gateway process: what the web layer calls, and the wiring of everything below it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import time
from collections.abc import Sequence

from sse_gateway.auth import RESPOND, Principal
from sse_gateway.config import Settings
from sse_gateway.core import notices
from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.events import loads_kept
from sse_gateway.core.keys import Keys
from sse_gateway.core.wire import Frame
from sse_gateway.delivery.feed import Feed, Join
from sse_gateway.delivery.hub import Hub
from sse_gateway.delivery.limits import Limits
from sse_gateway.delivery.stream import Carrier, Stream
from sse_gateway.gateway.answers import Answers
from sse_gateway.gateway.audit import MAX_AROUND_BYTES, Audit
from sse_gateway.gateway.compat import Compat
from sse_gateway.gateway.deadlines import Deadlines
from sse_gateway.gateway.functions import Functions
from sse_gateway.gateway.gauges import gauges
from sse_gateway.gateway.handover import Handover
from sse_gateway.gateway.live import Live
from sse_gateway.gateway.plain_requests import PlainRequests
from sse_gateway.gateway.positions import POSITION_CHECK_SECONDS
from sse_gateway.gateway.presence import Presence
from sse_gateway.gateway.records import record_closed, record_opened
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.gateway.tickets import Tickets
from sse_gateway.gateway.turns import Turns
from sse_gateway.gateway.waits import Waits
from sse_gateway.metrics import Metrics
from sse_gateway.store.connection import Store
from sse_gateway.store.history import History, Reading
from sse_gateway.store.library import Library
from sse_gateway.store.library import Limits as LibraryLimits
from sse_gateway.store.permissions import Permissions
from sse_gateway.store.push import PROBE_SECONDS, PROBE_TIMEOUT_SECONDS, Push

_RETRY_SECONDS = (0.3, 0.8)


class Gateway:
    """Hold the streams of one process and connect them to Redis."""

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        max_streams: int,
        probe_seconds: float = PROBE_SECONDS,
        probe_timeout_seconds: float = PROBE_TIMEOUT_SECONDS,
        position_check_seconds: float = POSITION_CHECK_SECONDS,
    ) -> None:
        assert settings.redis_url is not None
        self.gateway_id = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.settings = settings
        self.metrics = metrics
        self.keys = Keys(settings.namespace)
        limits = LibraryLimits(
            history_events=settings.history_events,
            history_bytes=settings.history_bytes,
            history_seconds=settings.history_seconds,
            max_event_bytes=settings.max_event_bytes,
            permission_seconds=settings.permission_seconds,
        )
        self.store = Store(
            settings.redis_url.get_secret_value(),
            keys=self.keys,
            library=Library(settings.namespace, limits),
            ca_file=str(settings.redis_ca_file) if settings.redis_ca_file else None,
            password=settings.redis_password.get_secret_value() if settings.redis_password else None,
            wait_replicas=settings.redis_wait_replicas,
            observe=metrics.observe_command,
        )
        self.history = History(self.store)
        self.tickets = Tickets(self.store)
        self.limits = Limits(
            streams=max_streams,
            per_session=settings.max_streams_per_session,
            per_user=settings.max_streams_per_user,
        )
        self.permissions = Permissions(self.store)
        self.hub = Hub(heartbeat_seconds=settings.heartbeat_seconds)
        self.presence = Presence(self.history, gateway_id=self.gateway_id)
        self.audit = Audit(self.store, permissions=self.permissions, metrics=metrics)
        self.deadlines = Deadlines(
            self.permissions, metrics=metrics, warn=self._warn_of_deadline, settled=self.audit.heard
        )
        self.answers = Answers(
            self.permissions,
            audit=self.audit,
            metrics=metrics,
            require_request_id=settings.require_request_id,
            min_display_seconds=settings.min_display_seconds,
        )
        self.turns = Turns()
        self.plain_requests = PlainRequests(self.permissions, turns=self.turns, metrics=metrics)
        self.live = Live(
            self.history,
            keys=self.keys,
            max_event_bytes=settings.max_event_bytes,
            metrics=metrics,
            on_request=self.plain_requests.receive,
            on_permission=self.deadlines.note,
            on_ended=self._check_ended,
            on_behind=self._pause,
            on_other=self._receive_other,
            ready=self._ready_after_reset,
            on_left=self.deadlines.forget,
            position_check_seconds=position_check_seconds,
        )
        self.functions = Functions(self.store, on_tried=self._restored)
        self.push = Push(
            name=f"sse_gateway:{self.gateway_id}",
            probe_channel=self.keys.probe(self.gateway_id),
            endpoint=self.store.push_endpoint,
            publish_probe=self.store.publish_channel,
            on_message=self.live.receive,
            on_restored=self.functions.renew,
            pattern=self.keys.answers_pattern.encode(),
            always=[self.keys.old_events_channel.encode()] if settings.simple_notifier_compat else [],
            probe_seconds=probe_seconds,
            probe_timeout_seconds=probe_timeout_seconds,
        )
        self.handover = Handover(
            live=self.live,
            push=self.push,
            history=self.history,
            metrics=metrics,
            gateway_id=self.gateway_id,
            heartbeat_seconds=settings.heartbeat_seconds,
            on_live=self._arrived,
        )
        self.waits = Waits(self.permissions, history=self.history, most=max_streams // 4)
        self.compat: Compat | None = None
        if settings.simple_notifier_compat:
            self.compat = Compat(
                self.store,
                live=self.live,
                permissions=self.permissions,
                requests=self.plain_requests,
                turns=self.turns,
                max_event_bytes=settings.max_event_bytes,
                metrics=metrics,
            )
        self.draining = False
        self._on_ended = self._ended
        """One bound method for all streams: each mention of `self._ended` makes another."""
        self._tasks = Tasks()
        metrics.observe(lambda: gauges(self.hub, self.push, metrics))

    async def start(self) -> None:
        """Start everything that runs by itself; Redis need not be there yet."""
        self.hub.start()
        self.live.start()
        self.presence.start()
        self.functions.start()
        self.push.start()

    def leave(self) -> None:
        """Say that this process is about to end: it takes no new streams, and nobody waits for it."""
        self.draining = True
        self.waits.end()

    async def stop(self) -> None:
        """Close what streams are left, and let go of Redis."""
        self.leave()
        await self.hub.drain(0)
        await self.handover.stop()
        await self._tasks.stop()
        await self.deadlines.stop()
        await self.live.stop()
        await self.presence.stop()
        await self.push.stop()
        # Nothing is heard any more that would begin something new.
        await self.turns.stop()
        await self.audit.stop()
        await self.functions.stop()
        await self.hub.stop()
        await self.store.close()

    # -- streams ----------------------------------------------------------------------------------

    def begin(
        self,
        join: Join,
        reading: Reading,
        transport: asyncio.WriteTransport,
        *,
        chunked: bool,
        carrier: Carrier,
        principal: Principal,
        client_id: str | None,
        http_request_id: str | None = None,
    ) -> Stream:
        """Make the stream of a response that has begun, and take it in.

        Its place must have been taken (`limits.take`); the stream's end gives it back.
        """
        settings, now = self.settings, time.time()
        age = settings.max_stream_age_seconds
        stream = Stream(
            transport,
            chunked=chunked,
            carrier=carrier,
            on_ended=self._on_ended,
            session_id=join.feed.session_id,
            user=principal.user,
            viewer=principal.may(RESPOND),
            client_id=client_id,
            http_request_id=http_request_id,
            expires_at=principal.deadline(now),
            max_age_at=now + age * random.uniform(0.8, 1.0) if age else float("inf"),
            queue_events=settings.stream_queue_events,
            queue_bytes=settings.stream_queue_bytes,
        )
        join.stream = stream
        self.limits.opened(stream)
        self.hub.add(stream)
        self.presence.opened(stream)
        self.deadlines.learn_clock(reading.now_ms)
        for pending in reading.pending:
            self.deadlines.watch(stream.session_id, pending.request_id, pending.expires_ms)
        record_opened(
            stream,
            position=Cursor(reading.epoch, reading.top),
            streams=len(self.hub.streams),
            metrics=self.metrics,
        )
        return stream

    def _ended(self, stream: Stream) -> None:
        """Let go of everything an ended stream held, and write its line."""
        self.limits.ended(stream)
        self.limits.release(stream.session_id, stream.user)
        self.hub.remove(stream)
        self.presence.closed(stream)
        self.handover.released(stream)
        record_closed(stream, self.metrics)

    # -- what comes from below --------------------------------------------------------------------

    def _pause(self, feed: Feed, streams: Sequence[Stream], position: Cursor, transient: int) -> None:
        self.handover.resume_behind(feed, streams, position, transient)

    def _receive_other(self, channel: bytes, payload: bytes) -> None:
        if self.compat is not None and channel == self.compat.channel:
            self.compat.receive(payload)
            return
        session_id = self.keys.session_of_answers(channel.decode(errors="replace"))
        if session_id is not None and len(payload) <= self.settings.max_event_bytes + MAX_AROUND_BYTES:
            self.waits.wake(session_id)
            with contextlib.suppress(ValueError):
                self.audit.heard(session_id, loads_kept(payload))

    def _restored(self) -> None:
        self.live.restored()
        self.presence.restored()
        self.waits.wake_all()

    def _ready_after_reset(self, session_id: str, position: Cursor) -> Frame:
        return self.handover.ready(session_id, position)

    def _warn_of_deadline(self, session_id: str, request_id: str, expires_at: str) -> None:
        feed = self.live.feed_of(session_id)
        if feed is not None:
            feed.broadcast((notices.permission_expiring(request_id, expires_at),))

    def _arrived(self, stream: Stream, join: Join) -> None:
        """Make up for what a stream was not told while it was not live: warnings, and the session's end."""
        for request_id, expires_at in self.deadlines.warnings(stream.session_id, since=join.live_until):
            stream.write(notices.permission_expiring(request_id, expires_at))
        if join.ended:
            self._check_ended(stream.session_id)

    def _check_ended(self, session_id: str) -> None:
        self._tasks.spawn(self._close_ended(session_id), name="session ended")

    async def _close_ended(self, session_id: str) -> None:
        """Close a session's streams if it has really ended, however long Redis takes to say so."""
        caught_up = False
        while (feed := self.live.feed_of(session_id)) is not None:
            try:
                status = await self.history.status(session_id)
            except Unavailable:
                await asyncio.sleep(random.uniform(*_RETRY_SECONDS))
                continue
            except GatewayError:
                return
            if not status.ended:
                return
            if caught_up or feed.position == status.cursor:
                # Those that are being opened, or behind, first read what came before the end, and then ask.
                for join in feed.joining:
                    join.ended = True
                for stream in list(feed.live):
                    stream.close("session_ended")
                return
            # That may take long, and a publish may have reopened the session meanwhile.
            await self.live.catching_up.now(feed, "ended")
            caught_up = True

    # -- how it is doing --------------------------------------------------------------------------

    def not_ready(self) -> dict[str, str]:
        """Return what keeps this gateway from being ready, by check; empty when it is."""
        faults = {}
        if self.draining:
            faults["draining"] = "shutting down"
        if not self.push.connected:
            faults["push"] = self.push.fault or "the push connection is down"
        elif not self.push.proven:
            faults["push"] = "the push connection has not been proven to deliver"
        if not self.functions.loaded:
            faults["library"] = "the function library is not loaded"
        return faults

    async def redis_answers(self) -> bool:
        """Tell whether Redis answers a command now."""
        try:
            await self.store.ping()
        except GatewayError:
            return False
        return True

    @property
    def state(self) -> str:
        """Return `running`, `degraded` or `stopped`, the `manager_status` of health."""
        if self.draining:
            return "stopped"
        return "degraded" if self.not_ready() else "running"
