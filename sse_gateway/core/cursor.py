"""The position in a session's history that a client reached: `<epoch>-<seq>`.

A seq alone would silently lie after Redis lost data: the numbers start again, and a client at 40 would
be told that it missed nothing. The epoch changes whenever the numbering may have been broken
(see REDIS.md, "Every script", rules 3 and 4).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CURSOR = re.compile(r"([0-9a-f]{10})-([0-9]{1,15})")


class Cursor(NamedTuple):
    """Point just behind the event `seq` of the numbering `epoch` (seq 0: before the first event)."""

    epoch: str
    seq: int

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Return the cursor, or None for anything that is not exactly one."""
        match = _CURSOR.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"
