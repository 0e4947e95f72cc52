"""How many streams one process, session and user may hold, and whose page replaces whose stream."""

from __future__ import annotations

import time
from collections import Counter, deque

from sse_gateway.core.errors import GatewayError
from sse_gateway.delivery.stream import Stream

REPLACEMENTS = 3
REPLACEMENT_SECONDS = 30.0
"""A page whose streams replace each other more often than this is two pages with one `client_id`."""

_Page = tuple[str, str, str]


class Limits:
    """Count the open streams against their limits; 0 means no limit."""

    def __init__(self, *, streams: int, per_session: int, per_user: int) -> None:
        self._streams = streams
        self._per_session = per_session
        self._per_user = per_user
        self._open = 0
        self._by_session: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()
        self._pages: dict[_Page, Stream] = {}
        self._replaced: dict[_Page, deque[float]] = {}

    @property
    def full(self) -> bool:
        """Tell whether the process holds as many streams as it may: others have room, so retry."""
        return self._open >= self._streams

    def check(self, session_id: str, user: str, client_id: str | None) -> None:
        """Raise `too_many_streams` if one more stream would be over a limit of session, user or page."""
        replaces = client_id is not None and (session_id, user, client_id) in self._pages
        for count, limit, whose in (
            (self._by_session[session_id], self._per_session, "this session"),
            (self._by_user[user], self._per_user, "this user"),
        ):
            if limit and count - replaces >= limit:
                raise GatewayError(
                    "too_many_streams",
                    f"There are already {limit} streams of {whose} here; close one first.",
                    retry_after=30,
                )
        if replaces and client_id is not None:
            self._check_replacements((session_id, user, client_id))

    def opened(self, stream: Stream) -> None:
        """Count a stream in, and close the one of the same page that it replaces."""
        self._open += 1
        self._by_session[stream.session_id] += 1
        self._by_user[stream.user] += 1
        page = _page(stream)
        if page is not None:
            old = self._pages.get(page)
            self._pages[page] = stream
            if old is not None:
                self._replaced.setdefault(page, deque()).append(time.monotonic())
                old.close("superseded")

    def ended(self, stream: Stream) -> None:
        """Count a stream out."""
        self._open -= 1
        for counter, key in ((self._by_session, stream.session_id), (self._by_user, stream.user)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        page = _page(stream)
        if page is not None and self._pages.get(page) is stream:
            del self._pages[page]
            self._replaced.pop(page, None)

    def _check_replacements(self, page: _Page) -> None:
        times = self._replaced.get(page, deque())
        while times and times[0] < time.monotonic() - REPLACEMENT_SECONDS:
            times.popleft()
        if len(times) >= REPLACEMENTS:
            raise GatewayError(
                "too_many_streams",
                "Two pages replace each other's stream; give each page load a 'client_id' of its own.",
                retry_after=REPLACEMENT_SECONDS,
            )


def _page(stream: Stream) -> _Page | None:
    """Name the page of a stream: another user's can never be the same."""
    return (stream.session_id, stream.user, stream.client_id) if stream.client_id else None
