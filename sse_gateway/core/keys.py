"""Session ids, and the names of everything kept in Redis (DESIGN section 3)."""

from __future__ import annotations

import hashlib
import re

from sse_gateway.core.errors import GatewayError

_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NAMESPACE = re.compile(r"[a-z0-9_]{0,32}")


def check_session_id(text: str) -> str:
    """Return `text` if it is a session id, else raise `bad_session_id`.

    The alphabet leaves out every character that means something in a Redis key (braces), in a glob
    (`*?[`), in a path (`/`) or in a header, so an id can be put into all of them as it is.
    """
    if _SESSION_ID.fullmatch(text) is None or text in (".", ".."):
        raise GatewayError(
            "bad_session_id",
            "A session id is 1 to 128 of the characters A-Z a-z 0-9 . _ : - (and not '.' or '..').",
        )
    return text


class Keys:
    """Name the keys, channels and functions of one namespace.

    `{sid}` is a literal hash tag: all keys of a session live in one Cluster slot. The namespace goes in
    front of everything, because a Redis DB number separates keys but not channels.
    """

    __slots__ = ("namespace",)

    def __init__(self, namespace: str = "") -> None:
        if _NAMESPACE.fullmatch(namespace) is None:
            raise ValueError("a namespace is at most 32 of the characters a-z 0-9 _")
        self.namespace = namespace

    def session_key(self, session_id: str) -> str:
        """Return the form of KEYS[1] that an ACL key pattern can match."""
        return f"{self.namespace}sse:{{{session_id}}}"

    def events_channel(self, session_id: str) -> str:
        return f"{self.namespace}sse_events:{session_id}"

    def meta(self, session_id: str) -> str:
        return f"{self.session_key(session_id)}:meta"

    def history(self, session_id: str) -> str:
        return f"{self.session_key(session_id)}:history"

    def state(self, session_id: str) -> str:
        return f"{self.session_key(session_id)}:state"

    def permissions(self, session_id: str) -> str:
        return f"{self.session_key(session_id)}:permissions"

    def pending(self, session_id: str) -> str:
        return f"{self.session_key(session_id)}:pending"

    def streams(self, session_id: str) -> str:
        return f"{self.session_key(session_id)}:streams"

    def idem(self, session_id: str, key: str) -> str:
        return f"{self.session_key(session_id)}:idem:{key}"

    def answers_stream(self, session_id: str) -> str:
        return f"{self.namespace}permission_responses:{{{session_id}}}"

    def answers_channel(self, session_id: str) -> str:
        return f"{self.namespace}permission_response:{session_id}"

    @property
    def answers_pattern(self) -> str:
        """Return what matches the answers' channels of all sessions."""
        return self.answers_channel("*")

    def session_of_answers(self, channel: str) -> str | None:
        """Return whose answers a channel carries, or None if it is no such channel."""
        prefix = self.answers_channel("")
        return channel.removeprefix(prefix) if channel.startswith(prefix) else None

    def audited(self, session_id: str, request_id: str, decided_at: str) -> str:
        """Return the key that says that a decision has its line in the audit trail."""
        return f"{self.session_key(session_id)}:audited:{request_id}:{decided_at}"

    def ticket(self, ticket: str) -> str:
        """Return the key of a one-use ticket: by digest, so that a dump of Redis holds no ticket."""
        return f"{self.namespace}sse:ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"

    def probe(self, gateway_id: str) -> str:
        return f"{self.namespace}sse:probe:{gateway_id}"

    @property
    def old_events_channel(self) -> str:
        """Return the one channel of backends of the old kind."""
        return f"{self.namespace}sse_events"

    def old_slot(self, kind: str, session_id: str) -> str:
        """Return the key that holds an old backend's latest event of a kind."""
        return f"{self.namespace}{kind}:{session_id}"

    def slot_asked(self, session_id: str) -> str:
        """Return the key that holds which request is not to be asked from its slot again."""
        return f"{self.session_key(session_id)}:slot"

    def old_clear(self, session_id: str, digest: str) -> str:
        """Return the key that says that an old backend's `permission_cleared` was dealt with."""
        return f"{self.session_key(session_id)}:cleared:{digest}"

    def function(self, name: str) -> str:
        return f"{self.namespace}{name}"

    @property
    def library(self) -> str:
        return f"{self.namespace}sse"
