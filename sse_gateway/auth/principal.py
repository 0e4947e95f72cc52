"""Hold who is asking: a user, the sessions their token names, their scopes, and until when.

Knows nothing of tokens or keys: a principal comes from a verified token or from a ticket, and is judged
alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

READ = "sse:read"
RESPOND = "sse:respond"
PUBLISH = "sse:publish"
SCOPES = (READ, RESPOND, PUBLISH)

EVERY_SESSION = "*"
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{0,127}[._:-]\*")


def is_session_name(text: str) -> bool:
    """Tell whether `text` is one session's exact id; nothing with a star is."""
    return _NAME.fullmatch(text) is not None and text not in (".", "..")


def is_session_pattern(text: str) -> bool:
    """Tell whether `text` reaches sessions: an exact id, `*`, or `prefix*`, the prefix ending in a separator.

    The separators are `. _ : -`. One of them is what keeps `u1*` from reaching `u10:secret`. Anything else
    with a star is no pattern at all, rather than a guess at what was meant, and so reaches nothing.
    """
    return text == EVERY_SESSION or _PREFIX.fullmatch(text) is not None or is_session_name(text)


def reaches(pattern: str, session_id: str) -> bool:
    """Tell whether a pattern (as `is_session_pattern` has them) covers this session."""
    if not pattern.endswith("*"):
        return pattern == session_id
    return session_id.startswith(pattern[:-1])


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose token or ticket was verified.

    `expires_at` is the token's own `exp`, in Unix seconds. Clocks differ, so a token is still accepted for
    `leeway_seconds` after that: `deadline` says when a stream opened now has to end.
    """

    user: str
    sessions: tuple[str, ...]
    """Patterns as `is_session_pattern` has them; text that is none is refused."""
    scopes: frozenset[str]
    expires_at: float
    leeway_seconds: float = 0.0

    def __post_init__(self) -> None:
        for pattern in self.sessions:
            if not is_session_pattern(pattern):
                raise ValueError(f"not a session pattern: {pattern!a}")

    def names(self, session_id: str) -> bool:
        """Tell whether a claim of the token reaches this session (the owner's rule is another one)."""
        return self.named_by(session_id) is not None

    def named_by(self, session_id: str) -> str | None:
        """Return the pattern that reaches this session, so that it can be told, or None."""
        for pattern in self.sessions:
            if reaches(pattern, session_id):
                return pattern
        return None

    def owns(self, owner: str | None) -> bool:
        """Tell whether this is the session's owner; a session without one belongs to nobody."""
        return bool(owner) and owner == self.user

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    def expired(self, now: float) -> bool:
        """Tell whether nothing may be done in this name any more, at `now` in Unix seconds."""
        return now >= self.expires_at + self.leeway_seconds

    def deadline(self, now: float) -> float:
        """Return when a stream opened at `now` must be closed, in Unix seconds.

        That is the expiry, or for a token that is used within the leeway the end of the leeway: a stream that
        was accepted is not closed in the same breath, to be opened and closed again until the leeway is over.
        """
        return self.expires_at if now < self.expires_at else self.expires_at + self.leeway_seconds


def session_patterns(candidates: Iterable[object]) -> tuple[str, ...]:
    """Return those candidates that are patterns, each once, in their order."""
    texts = (item for item in candidates if isinstance(item, str))
    return tuple(dict.fromkeys(text for text in texts if is_session_pattern(text)))
