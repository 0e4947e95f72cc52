"""One-use tickets, so that no JWT stands in a URL.

A ticket carries the rights and the expiry of the token that asked for it, for one session. It is kept
under its digest for 30 s and is redeemed after all other checks: proxies repeat a GET whose first
gateway died before it answered.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from sse_gateway.auth import Principal
from sse_gateway.core.errors import AuthError
from sse_gateway.store.connection import Store

TICKET_SECONDS = 30
_TICKET_BYTES = 24
_EXPIRED = "The token that this ticket was asked for with has expired; get a new one, and a new ticket."
_SPENT = "The ticket was used, has expired or was made for another session; ask for a new one."


class Tickets:
    """Issue and redeem tickets, on whichever gateway they come back to."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def issue(self, session_id: str, principal: Principal) -> str:
        """Return a new ticket for one stream of this session; raises Unavailable."""
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        held = {
            "session": session_id,
            "user": principal.user,
            "scopes": sorted(principal.scopes),
            "expires_at": principal.expires_at,
            "leeway_seconds": principal.leeway_seconds,
        }
        key = self._store.keys.ticket(ticket)
        await self._store.command("SET", key, json.dumps(held), "EX", TICKET_SECONDS)
        return ticket

    async def holder(self, ticket: str, session_id: str) -> Principal:
        """Return whom a ticket speaks for without using it up; raises `ticket_spent` or `token_expired`."""
        return _principal(await self._store.command("GET", self._store.keys.ticket(ticket)), session_id)

    async def redeem(self, ticket: str, session_id: str) -> None:
        """Use a ticket up, else raise as `holder` does: of two who come with it, one gets through."""
        _principal(await self._store.command("GETDEL", self._store.keys.ticket(ticket)), session_id)


def _principal(held: bytes | None, session_id: str) -> Principal:
    members: dict[str, Any] = json.loads(held) if held else {}
    if members.get("session") != session_id:
        raise AuthError("ticket_spent", _SPENT)
    principal = Principal(
        user=members["user"],
        sessions=(session_id,),
        scopes=frozenset(members["scopes"]),
        expires_at=members["expires_at"],
        leeway_seconds=members["leeway_seconds"],
    )
    if principal.expired(time.time()):
        raise AuthError("token_expired", _EXPIRED)
    return principal
