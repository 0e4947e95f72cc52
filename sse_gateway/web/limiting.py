"""Rates of calls and of new streams, by client address and by user.

A call too many is a 429 with `Retry-After`. A stream too many is sent away with a 200 that ends in `closing`,
since a native `EventSource` gives up for ever on a 429 and a later try will do.
"""

from __future__ import annotations

import logging
import time

from aiohttp import web

from sse_gateway.config import Settings
from sse_gateway.core.errors import GatewayError
from sse_gateway.web.clients import Clients
from sse_gateway.web.rates import Rate
from sse_gateway.web.replies import Handler

logger = logging.getLogger(__name__)

WARN_SECONDS = 60.0


class Limiting:
    """Judge how often somebody comes; one for the whole process."""

    def __init__(self, settings: Settings) -> None:
        self.clients = Clients(settings.trusted_proxies)
        self._streams = Rate(settings.stream_rate_per_client)
        self._calls = Rate(settings.call_rate_per_client)
        self._calls_of_user = Rate(settings.call_rate_per_user)
        self._warn_at = 0.0

    def may_open_stream(self, request: web.Request) -> bool:
        """Count a new stream of a client, before its token is looked at: a bad one costs as much."""
        client = self.clients.address_of(request)
        if client is None or not self._streams.take(client):
            return True
        self._warn(client, "STREAM_RATE_PER_CLIENT")
        return False

    def check_call(self, request: web.Request) -> None:
        """Count a call of a client's, or raise `too_many_requests`."""
        client = self.clients.address_of(request)
        wait = self._calls.take(client) if client is not None else 0.0
        if client is not None and wait:
            self._warn(client, "CALL_RATE_PER_CLIENT")
            raise _too_many("this address", wait)

    def check_user(self, user: str) -> None:
        """Count a call of a user's, or raise `too_many_requests`."""
        wait = self._calls_of_user.take(user)
        if wait:
            raise _too_many("this user", wait)

    def _warn(self, client: str, setting: str) -> None:
        """Tell whoever runs the gateway, once in a while: an attack must not fill the log too."""
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + WARN_SECONDS
            logger.warning(
                "a client address is over its rate; if it is a proxy's, name it in TRUSTED_PROXIES",
                extra={"fields": {"client": client, "setting": setting}},
            )


LIMITING = web.AppKey("limiting", Limiting)


def limited(handler: Handler) -> Handler:
    """Return a handler that counts the call against its client's rate first."""

    async def counted(request: web.Request) -> web.StreamResponse:
        request.app[LIMITING].check_call(request)
        return await handler(request)

    return counted


def _too_many(who: str, wait: float) -> GatewayError:
    return GatewayError(
        "too_many_requests", f"There are too many calls of {who}; wait before the next.", retry_after=wait
    )
