"""Permission requests and their answers, as the scripts decide them (REDIS.md, "Permissions").

Expected races are values: `Answered.verdict` says who won. Refusals are GatewayErrors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sse_gateway.core.events import loads_kept
from sse_gateway.store.connection import Store


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one answer."""

    verdict: str
    """won, replayed, lost, expired, unknown; without a request id also none, ambiguous, too_new."""
    decision: bytes | None
    """The decision that stands, as JSON."""
    pending: list[str]
    """The requests still open, in the order asked."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """One open request."""

    request_id: str
    request: bytes
    """The request's JSON object, in the asker's bytes."""
    asked_ms: int
    expires_ms: int
    seq: int
    """Of its event."""


@dataclass(frozen=True, slots=True)
class SettledRequest:
    """One request that is no longer open."""

    request_id: str
    state: str
    """approved, denied, expired, cancelled or consumed."""
    decision: bytes


@dataclass(frozen=True, slots=True)
class Overview:
    """A session's open requests, in the order asked, and its recent decisions, the newest first."""

    now_ms: int
    last_settled_ms: int
    """When the last request was settled; 0 where none is known."""
    last_settled_id: str | None
    pending: list[OpenRequest]
    recent: list[SettledRequest]


@dataclass(frozen=True, slots=True)
class Request:
    """All that is known of one request."""

    state: str
    """pending, approved, denied, expired, cancelled or consumed."""
    request: bytes
    asked_ms: int
    expires_ms: int
    decision: bytes | None
    worker: str | None
    """Who claimed the decision."""
    digest: str
    """What binds a decision to the arguments: the asker's, or `sha1:` and a hash of the raw parameters."""


class Permissions:
    """Ask, answer and settle, for all sessions.

    `ask`, `decision` and `cancel` return `{"status": "pending", "request_id", "expires_at", "id",
    "viewers"}` or `{"status": "decided", "decision": {...}}`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def ask(self, session_id: str, request: bytes, *, owner: str | None = None) -> dict[str, Any]:
        """Ask; `request` is the JSON object of the request alone."""
        return _standing(await self._store.fcall("ask", session_id, request, owner or ""))

    async def answer(
        self,
        session_id: str,
        request_id: str,
        decision: bytes,
        *,
        approved: bool,
        option_id: str | None = None,
        input_digest: str | None = None,
        implicit: bool = False,
        min_display_ms: int = 0,
        idempotency_key: str | None = None,
    ) -> Answered:
        """Answer a request; `decision` is the decision's JSON without `decided_at`.

        `implicit` says that the human named no request: `request_id` is the only one that was pending
        when the caller looked, or "" when there was none.
        """
        reply = await self._store.fcall_durably(
            "answer",
            session_id,
            request_id,
            "1" if approved else "0",
            option_id or "",
            input_digest or "",
            decision,
            "1" if implicit else "0",
            min_display_ms,
            idempotency_key or "",
        )
        verdict, standing, *pending = reply
        return Answered(verdict.decode(), standing or None, [item.decode() for item in pending])

    async def decision(self, session_id: str, request_id: str) -> dict[str, Any]:
        """Return how a request stands, settling it if it is due; raises `unknown_request`."""
        return _standing(await self._store.fcall("decision", session_id, request_id))

    async def claim(self, session_id: str, request_id: str, worker_id: str) -> bool:
        """Take a decision for one worker; the same worker may ask again. Raises `unknown_request`."""
        return bool(await self._store.fcall_durably("claim", session_id, request_id, worker_id) == 1)

    async def cancel(
        self, session_id: str, request_id: str, *, reason: str | None = None, if_no_viewer: bool = False
    ) -> dict[str, Any]:
        """Give a request up, with `if_no_viewer` only while nobody is there to answer it."""
        condition = "no_viewer" if if_no_viewer else ""
        return _standing(await self._store.fcall("cancel", session_id, request_id, reason or "", condition))

    async def end(self, session_id: str, *, reason: str | None = None) -> int:
        """End the session; return how many open requests that cancelled."""
        cancelled: int = await self._store.fcall("end", session_id, reason or "")
        return cancelled

    async def pending(self, session_id: str) -> Overview:
        """Return the open requests and the recent decisions."""
        now_ms, settled_ms, settled_id, pending, recent = await self._store.fcall("pending", session_id)
        return Overview(
            now_ms,
            settled_ms,
            settled_id.decode() or None,
            [
                OpenRequest(request_id.decode(), request, asked_ms, expires_ms, seq)
                for request_id, request, asked_ms, expires_ms, seq in zip(
                    *(pending[at::5] for at in range(5)), strict=True
                )
            ],
            [
                SettledRequest(request_id.decode(), state.decode(), decision)
                for request_id, state, decision in zip(*(recent[at::3] for at in range(3)), strict=True)
            ],
        )

    async def request(self, session_id: str, request_id: str) -> Request:
        """Return all that is known of one request; raises `unknown_request`."""
        state, request, asked_ms, expires_ms, decision, worker, digest = await self._store.fcall(
            "request", session_id, request_id
        )
        return Request(
            state.decode(), request, asked_ms, expires_ms, decision or None, worker.decode() or None,
            digest.decode(),
        )  # fmt: skip


def _standing(reply: bytes) -> dict[str, Any]:
    standing: dict[str, Any] = loads_kept(reply)
    return standing
