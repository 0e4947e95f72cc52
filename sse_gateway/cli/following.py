"""Follow one session's stream over HTTP, reconnecting with the cursor as the server asks.

What a retry can cure is retried for ever, what it cannot ends the command with the server's own words. Knows
nothing of screens.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from sse_gateway.cli.refusal import Refusal
from sse_gateway.cli.sse import EventParser, ServerEvent, read_object

FIRST_RETRY_SECONDS = 3.0
LONGEST_RETRY_SECONDS = 30.0
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 75.0
TOKEN_REFUSED = 401
SESSION_OVER = 204


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended; it is tried again after `seconds`."""

    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Over:
    """The stream ended for good, and that is no failure."""

    why: str


Step = ServerEvent | Lost | Over


class Gateway:
    """Talk to one gateway about one session; `fresh_token` makes the token anew when it has expired."""

    def __init__(
        self, base_url: str, session_id: str, *, token: str, fresh_token: Callable[[], str] | None
    ) -> None:
        """Keep the address (`http://host:port/base/path`) and the token."""
        self.base_url = base_url.rstrip("/")
        self.session_id = session_id
        self._token = token
        self._fresh_token = fresh_token
        # A token was made anew: nothing is to be waited for.
        self._renewed = False
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Gateway:
        """Open the HTTP client."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self._http = aiohttp.ClientSession(timeout=timeout, read_bufsize=2**18)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close it."""
        if self._http is not None:
            await self._http.close()

    async def follow(self, *, cursor: str = "", replay: str = "") -> AsyncIterator[Step]:
        """Yield events, and what happens to the connection, until the stream is over.

        Raises Refusal for what a retry cannot cure, and when the very first connection fails: a wrong address
        should be told at once, while a gateway that was there may come back.
        """
        last_id, retry_seconds, failures, ever_connected = cursor, FIRST_RETRY_SECONDS, 0, False
        while True:
            parser = EventParser(last_id=last_id)
            why = "the stream ended"
            try:
                async for step in self._connection(parser, cursor=last_id, replay=replay):
                    ever_connected, failures = True, 0
                    if isinstance(step, Over):
                        yield step
                        return
                    yield step
            except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
                if not ever_connected:
                    raise self._unreachable(error) from None
                why = _words(error)
                failures += 1
            last_id = parser.last_id
            if parser.retry_ms is not None:
                retry_seconds = parser.retry_ms / 1000
            pause = min(retry_seconds * 2 ** min(failures, 5), max(LONGEST_RETRY_SECONDS, retry_seconds))
            if self._renewed:
                self._renewed, pause = False, 0.0
            if failures:
                pause *= random.uniform(0.8, 1.2)
            yield Lost(why, pause)
            await asyncio.sleep(pause)

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """POST to `{base}/path/{session}`; return the status and the answer, {} if that is no object."""
        assert self._http is not None
        url = f"{self.base_url}/{path}/{self.session_id}"
        timeout = aiohttp.ClientTimeout(total=CONNECT_SECONDS)
        async with self._http.post(url, json=body, headers=self._headers(), timeout=timeout) as response:
            return response.status, await _json_object(response)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """GET `{base}/path/{session}`; return the status and the answer, {} if that is no object."""
        assert self._http is not None
        url = f"{self.base_url}/{path}/{self.session_id}"
        timeout = aiohttp.ClientTimeout(total=CONNECT_SECONDS)
        try:
            async with self._http.get(url, headers=self._headers(), timeout=timeout) as response:
                return response.status, await _json_object(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from None

    async def _connection(self, parser: EventParser, *, cursor: str, replay: str) -> AsyncIterator[Step]:
        assert self._http is not None
        headers = self._headers() | {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if cursor:
            headers["Last-Event-ID"] = cursor
        query = {"replay": replay} if replay and not cursor else {}
        url = f"{self.base_url}/events/{self.session_id}"
        async with self._http.get(url, headers=headers, params=query) as response:
            if response.status == SESSION_OVER:
                yield Over("the session has ended, and nothing is left to show")
                return
            await self._check(response)
            async for event in _events(response, parser):
                yield event
                over = self._end_told_by(event)
                if over is not None:
                    yield over
                    return

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Pass a stream; raise ConnectionError for what may be better next time, Refusal for the rest."""
        if response.status == 200 and response.content_type == "text/event-stream":
            return
        answer = await _json_object(response)
        if response.status == TOKEN_REFUSED and self._fresh_token and answer.get("code") == "token_expired":
            self._renew()
            raise ConnectionError("the token had expired")
        said = str(answer.get("message") or f"HTTP {response.status} {response.reason}")
        if response.status >= 500:
            raise ConnectionError(said)
        if response.status == 200:
            raise Refusal(
                f"{self.base_url} answers, but not with a stream.",
                hint="--url is the gateway's address with base path",
            )
        hint = {
            401: "give a token with --token or SSE_GATEWAY_TOKEN, or the gateway's secret to mint one",
            403: "`sse-gateway token --explain TOKEN --session ID` says which rule refuses",
            404: "--url is the gateway's address with its base path",
        }.get(response.status, "")
        raise Refusal(said, hint=hint)

    def _end_told_by(self, event: ServerEvent) -> Over | None:
        if event.event != "closing":
            return None
        data = read_object(event.data)
        if data.get("reconnect") is not False:
            return None
        reason = str(data.get("reason"))
        if reason == "session_ended":
            return Over("the session has ended")
        if reason == "token_expired" and self._fresh_token is not None:
            self._renew()
            return None
        raise Refusal(f"The gateway closed the stream: {reason}.", hint=_HINTS.get(reason, ""))

    def _renew(self) -> None:
        assert self._fresh_token is not None
        self._token, self._renewed = self._fresh_token(), True

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _unreachable(self, error: Exception) -> Refusal:
        return Refusal(
            f"{self.base_url} cannot be reached: {_words(error)}.",
            hint="is the gateway running there? Name another with --url or SSE_GATEWAY_URL",
        )


_HINTS = {
    "token_expired": "get a new token; with the gateway's secret configured, tail mints its own",
    "superseded": "another stream of the same client took its place",
}


async def _events(response: aiohttp.ClientResponse, parser: EventParser) -> AsyncIterator[ServerEvent]:
    """Yield a response's events; silence over several heartbeats counts as a lost connection."""
    silence = SILENCE_SECONDS
    while True:
        chunk = await asyncio.wait_for(response.content.readany(), silence)
        if not chunk:
            return
        for event in parser.feed(chunk):
            if event.event == "ready":
                heartbeat = read_object(event.data).get("heartbeat_seconds")
                if isinstance(heartbeat, int | float) and 0 < heartbeat < 3600:
                    silence = max(2.5 * heartbeat, 5.0)
            yield event


async def _json_object(response: aiohttp.ClientResponse) -> dict[str, Any]:
    return read_object((await response.read()).decode("utf-8", "replace"))


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number) if number else str(error.os_error)
    return str(error) or type(error).__name__
