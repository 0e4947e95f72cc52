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

    def take(self, session_id: str, user: str, client_id: str | None) -> None:
        """Take a place for a stream about to open, or raise `too_many_streams`; `release` gives it back.

        A page that comes back takes the place of its own old stream, which is about to be closed.
        """
        page = (session_id, user, client_id) if client_id else None
        replaces = page in self._pages
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
        if page is not None and replaces:
            self._check_replacements(page)
        self._open += 1
        self._by_session[session_id] += 1
        self._by_user[user] += 1

    def release(self, session_id: str, user: str) -> None:
        """Give a place back."""
        self._open -= 1
        for counter, key in ((self._by_session, session_id), (self._by_user, user)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def opened(self, stream: Stream) -> None:
        """Close the stream of the same page that this one replaces."""
        page = _page(stream)
        if page is not None:
            old = self._pages.get(page)
            self._pages[page] = stream
            if old is not None:
                self._replaced.setdefault(page, deque()).append(time.monotonic())
                old.close("superseded")

    def ended(self, stream: Stream) -> None:
        """Forget the stream of a page."""
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
