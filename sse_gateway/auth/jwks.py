"""Fetch an identity provider's key set, and decide when: the keys' life, rotation, outages and floods.

    age of the keys        what happens when a token comes
    up to 5 minutes        they are used
    up to 10 minutes       they are used, and fetched again meanwhile
    up to 6 hours          they are fetched first; if that fails they are used all the same
    more, or none yet      they are fetched first; if that fails nobody can tell (`KeysUnavailable`, 503)

A token that names an unknown key has them fetched at once, at most every 10 seconds, which is how a rotation
is noticed. What is still unknown then is remembered as unknown for half a minute. In between, when a fetch is
not due, nobody can tell either: saying "invalid" would send away for ever the first users after a rotation.
So a flood of invented key ids costs the provider six small requests a minute, and users with known keys
nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import aiohttp
from yarl import URL

from sse_gateway.auth.keys import Key, KeySettingError, KeysUnavailable
from sse_gateway.auth.keyset import BadKeySet, read_key_set

logger = logging.getLogger(__name__)

MAX_TRIALS = 4
"""Keys a token without `kid` is tried with at most: current, previous, next and one more."""


@dataclass(frozen=True, slots=True)
class KeySetLimits:
    """Times and sizes of a key set's fetching; the defaults are what the module's table says."""

    fresh_seconds: float = 300.0
    waiting_age_seconds: float = 600.0
    oldest_seconds: float = 6 * 3600.0
    pause_seconds: float = 10.0
    longest_pause_seconds: float = 60.0
    unknown_seconds: float = 30.0
    unknown_key_ids: int = 1000
    timeout_seconds: float = 5.0
    body_bytes: int = 256 * 1024


class JwksKeys:
    """Serve the keys of one URL; must be closed, and used in one event loop."""

    def __init__(
        self,
        url: str,
        allowed: Collection[str],
        *,
        limits: KeySetLimits = KeySetLimits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = check_key_set_url(url)
        self._allowed = frozenset(allowed)
        self._limits = limits
        self._clock = clock
        # Counts the times a key went away; see KeySource.
        self.generation = 0
        # The keys of the last good answer, empty before it and when they have become too old.
        self._keys: tuple[Key, ...] = ()
        # When the fetch that brought them began, and the earliest moment of the next one.
        self._fetched_at = float("-inf")
        self._next_fetch_at = float("-inf")
        # How many fetches failed since the last good one.
        self._failures = 0
        # The one fetch under way.
        self._fetch_task: asyncio.Task[None] | None = None
        # Key ids a whole fetch did not bring, until when that is believed; oldest first.
        self._unknown: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None

    async def freshen(self) -> None:
        """Fetch what has become old: in the background while it is still good, else before going on."""
        age = self._clock() - self._fetched_at
        if age < self._limits.fresh_seconds:
            return
        fetch = self._begin_fetch()
        if fetch is not None and age >= self._limits.waiting_age_seconds:
            await asyncio.wait([fetch])
        if self._keys and self._clock() - self._fetched_at >= self._limits.oldest_seconds:
            self._log(logging.ERROR, "the key set is too old, and is dropped")
            self._keys = ()
            self.generation += 1

    async def find(self, algorithm: str, key_id: str | None) -> Sequence[Key]:
        """Return the keys that fit the token's algorithm and key id, fetching the set if the id is new.

        A key with another id than the token's is never tried. A token without one is tried with all that fit,
        unless they are so many that it had to name one.
        """
        asked_at = self._clock()
        await self.freshen()
        found = self._matching(algorithm, key_id)
        if not found and self._keys and self._is_known_as_unknown(algorithm, key_id):
            return ()
        if not found and self._fetched_at < asked_at:
            fetch = self._begin_fetch()
            if fetch is not None:
                await asyncio.wait([fetch])
            found = self._matching(algorithm, key_id)
        if found:
            return found
        if self._fetched_at < asked_at:
            raise KeysUnavailable(
                "The key this token was signed with cannot be looked up at the moment; try again.",
                retry_after=max(1.0, self._next_fetch_at - self._clock()),
            )
        self._remember_unknown(key_id)
        return ()

    async def close(self) -> None:
        """Stop fetching, and close the connection."""
        if self._fetch_task is not None:
            self._fetch_task.cancel()
            await asyncio.wait([self._fetch_task])
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _matching(self, algorithm: str, key_id: str | None) -> Sequence[Key]:
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        if key_id is not None:
            return [key for key in fitting if key.key_id == key_id][:MAX_TRIALS]
        return fitting if len(fitting) <= MAX_TRIALS else ()

    def _is_known_as_unknown(self, algorithm: str, key_id: str | None) -> bool:
        if key_id is None or algorithm not in self._allowed:
            return True  # there is no name that a newer set could have
        if any(key.key_id == key_id for key in self._keys):
            return True  # the key is there, and for another algorithm
        return self._clock() < self._unknown.get(key_id, float("-inf"))

    def _remember_unknown(self, key_id: str | None) -> None:
        if key_id is None:
            return
        self._unknown.pop(key_id, None)
        if len(self._unknown) >= self._limits.unknown_key_ids:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[key_id] = self._clock() + self._limits.unknown_seconds

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """Return the fetch under way, or begin one; None while it is too early for another.

        It is a task of its own, so that a caller who goes away does not cancel it for the others.
        """
        if self._fetch_task is None and self._clock() >= self._next_fetch_at:
            self._fetch_task = asyncio.create_task(self._fetch(), name="key set")
            self._fetch_task.add_done_callback(self._fetch_ended)
        return self._fetch_task

    def _fetch_ended(self, task: asyncio.Task[None]) -> None:
        self._fetch_task = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("fetching the key set broke", exc_info=task.exception())

    async def _fetch(self) -> None:
        began_at = self._clock()
        # Whatever happens below, even a fault of ours, the next attempt is not at once.
        self._next_fetch_at = began_at + self._limits.longest_pause_seconds
        try:
            body = await self._download()
            keys, faults = read_key_set(body, self._allowed)
        except (BadKeySet, aiohttp.ClientError, OSError, TimeoutError) as error:
            self._failed(ascii(str(error))[1:-1][:200] or type(error).__name__)
            return
        for fault in faults:
            self._log(logging.DEBUG, "a key of the key set is not used", reason=fault)
        self._adopt(tuple(keys), began_at)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        pause = min(
            self._limits.pause_seconds * 2 ** min(self._failures - 1, 10), self._limits.longest_pause_seconds
        )
        self._next_fetch_at = self._clock() + pause * random.uniform(0.75, 1.0)
        self._log(logging.WARNING, "the key set cannot be fetched", reason=reason, keys_kept=len(self._keys))

    def _adopt(self, keys: tuple[Key, ...], began_at: float) -> None:
        gone = [key for key in self._keys if key not in keys]
        new = [key for key in keys if key not in self._keys]
        self._keys = keys
        self._fetched_at = began_at
        self._next_fetch_at = self._clock() + self._limits.pause_seconds
        self._failures = 0
        if gone:
            self.generation += 1
        if gone or new:
            self._log(logging.INFO, "the key set has changed", keys=len(keys), new=len(new), gone=len(gone))

    async def _download(self) -> bytes:
        """Return the document, or raise BadKeySet, aiohttp.ClientError, OSError or TimeoutError.

        Redirects are not followed: they could lead to plain HTTP or into the operator's own network.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._limits.timeout_seconds),
                headers={
                    "Accept": "application/jwk-set+json, application/json",
                    "Accept-Encoding": "identity",
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        async with self._session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise BadKeySet(f"its server answered {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > self._limits.body_bytes:
                    raise BadKeySet(f"it is larger than {self._limits.body_bytes} bytes")
        return bytes(body)

    def _log(self, level: int, message: str, **fields: object) -> None:
        # The address may hold credentials, in front of the host or in its query.
        address = str(self._url.with_user(None).with_query(None))
        logger.log(level, message, extra={"fields": {"address": address, **fields}})


def check_key_set_url(text: str) -> URL:
    """Return the address if keys may be believed that come from it; raises KeySettingError.

    Who can answer for this address can sign in as anybody, hence https. Plain http is for the loopback
    interface alone, where tests and sidecars live.
    """
    try:
        url = URL(text)
    except ValueError:
        raise KeySettingError("JWT_JWKS_URL is not a URL.") from None
    if url.host and (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))):
        return url
    raise KeySettingError("JWT_JWKS_URL must be an https:// address (http:// only for this machine itself).")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
