"""How often a client address and a user may call: leaky buckets in bounded memory.

A bucket is one number, the moment at which it will be empty again (the generic cell rate algorithm of ATM
Forum TM 4.0): a call that finds it more than `BURST_SECONDS` ahead is too much.
"""

from __future__ import annotations

import time
from collections.abc import Callable

BURST_SECONDS = 10.0
"""How many seconds' worth of calls may come at once: a page that loads, a room that reconnects."""
MOST_KEYS = 50_000


class Rate:
    """Allow each key so many calls a second on average; 0 allows everything."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_keys: int = MOST_KEYS,
    ) -> None:
        self._cost = 1 / per_second if per_second else 0.0
        self._clock = clock
        self._most_keys = most_keys
        self._empty_at: dict[str, float] = {}
        """Key → when its bucket will be empty; the key used longest ago first."""

    def __len__(self) -> int:
        return len(self._empty_at)

    def take(self, key: str) -> float:
        """Count one call; return 0, or, having counted nothing, after how many seconds there is room."""
        if not self._cost:
            return 0.0
        now = self._clock()
        empty_at = max(self._empty_at.pop(key, now), now) + self._cost
        # Rounded to the microsecond: sums of fractions are never quite what they should be.
        wait = round(empty_at - now - max(BURST_SECONDS, self._cost), 6)
        self._empty_at[key] = empty_at if wait <= 0 else empty_at - self._cost
        self._forget(now)
        return max(0.0, wait)

    def _forget(self, now: float) -> None:
        """Drop what has been empty for some time, and the oldest of too many.

        Dropping a bucket that is not empty forgives its owner; so many owners at once are no one's bucket.
        """
        while self._empty_at:
            oldest = next(iter(self._empty_at))
            if self._empty_at[oldest] > now and len(self._empty_at) <= self._most_keys:
                return
            del self._empty_at[oldest]
