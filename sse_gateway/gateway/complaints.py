"""Warn of what somebody publishes wrongly, without letting him fill the log.

The publisher cannot be told, so the log is; but he may go on, and may name any session.
"""

from __future__ import annotations

import time

AGAIN_SECONDS = 600.0
MOST_SESSIONS = 100


class Complaints:
    """Tell what is worth a line: each session once in ten minutes, and at most a hundred sessions."""

    def __init__(self) -> None:
        self._sessions: set[str] = set()
        self._until = 0.0

    def is_news(self, session_id: str) -> bool:
        """Tell whether nothing was said of this session, and count it as said."""
        now = time.monotonic()
        if now >= self._until:
            self._sessions.clear()
            self._until = now + AGAIN_SECONDS
        if session_id in self._sessions or len(self._sessions) >= MOST_SESSIONS:
            return False
        self._sessions.add(session_id)
        return True
