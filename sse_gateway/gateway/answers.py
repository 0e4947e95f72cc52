"""A human's answer: found its request, checked against it, and put through the script that lets one win.

The request's own text never changes, so it can be read and checked before the script compares and sets.
What may change in between (somebody else answers, the deadline passes) is for the script alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import loads_kept
from sse_gateway.core.permissions import Answer, check_against_request, compose_decision
from sse_gateway.gateway.audit import Audit
from sse_gateway.metrics import Metrics
from sse_gateway.store.permissions import Permissions

JUST_SETTLED_MS = 2000
"""An answer without an id repeats what was settled less than this ago; the scripts have the same number."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The decision an answer made, or that it repeated."""

    decision: Mapping[str, Any]
    text: bytes
    """The decision's JSON as it stands in Redis."""
    replayed: bool


class Answers:
    """Put answers through; one for the whole process."""

    def __init__(
        self,
        permissions: Permissions,
        *,
        audit: Audit,
        metrics: Metrics,
        require_request_id: bool = False,
        min_display_seconds: float = 1.0,
    ) -> None:
        self._permissions = permissions
        self._audit = audit
        self._metrics = metrics
        self._require_request_id = require_request_id
        self._min_display_ms = round(min_display_seconds * 1000)

    async def answer(
        self, session_id: str, answer: Answer, *, decided_by: str, idempotency_key: str | None = None
    ) -> Settled:
        """Settle a request by this answer, or raise the error that says why it did not count."""
        if answer.request_id is None and self._require_request_id:
            raise GatewayError("request_id_required", "This gateway takes only answers with a 'request_id'.")
        request_id, request, asked_ms = await self._find(session_id, answer)
        option_kind = check_against_request(answer, request) if request is not None else None
        decision_text = compose_decision(
            answer, request_id, request or {}, option_kind=option_kind, decided_by=decided_by
        )
        result = await self._permissions.answer(
            session_id,
            request_id,
            decision_text,
            approved=answer.approved,
            option_id=answer.option_id,
            input_digest=_input_digest(answer.updated_input),
            implicit=answer.request_id is None,
            min_display_ms=self._min_display_ms,
            idempotency_key=idempotency_key,
        )
        decision = loads_kept(result.decision) if result.decision is not None else None
        if result.decision is None or decision is None or result.verdict not in ("won", "replayed"):
            raise _refusal(result.verdict, decision, result.pending)
        if result.verdict == "won":
            self._audit.settled(session_id, decision)
            self._metrics.observe_decision(asked_ms, decision["decided_at"])
        return Settled(decision, result.decision, replayed=result.verdict == "replayed")

    async def _find(self, session_id: str, answer: Answer) -> tuple[str, Mapping[str, Any] | None, int]:
        """Return the request meant, its text, and when it was asked.

        It is "" and None where there is nothing to check the answer against: it repeats what was settled
        a moment ago (its options are not those of a request that came since), or the script has to say
        what is wrong.
        """
        if answer.request_id is not None:
            found = await self._permissions.request(session_id, answer.request_id)
            return answer.request_id, loads_kept(found.request), found.asked_ms
        seen = await self._permissions.pending(session_id)
        if len(seen.pending) == 1 and seen.now_ms - seen.last_settled_ms >= JUST_SETTLED_MS:
            only = seen.pending[0]
            return only.request_id, loads_kept(only.request), only.asked_ms
        return "", None, 0


def _input_digest(updated_input: Mapping[str, Any] | None) -> str:
    """Return a digest that is equal for equal inputs: it only tells a repeated answer from another."""
    if updated_input is None:
        return ""
    return hashlib.sha256(json.dumps(updated_input, sort_keys=True).encode()).hexdigest()


def _refusal(verdict: str, decision: Mapping[str, Any] | None, pending: list[str]) -> GatewayError:
    with_decision = {"decision": decision} if decision is not None else None
    match verdict:
        case "lost":
            return GatewayError(
                "already_decided",
                "This request was settled before your answer came; 'decision' holds what counts.",
                data=with_decision,
            )
        case "expired":
            return GatewayError(
                "request_expired", "The request's deadline passed before your answer.", data=with_decision
            )
        case "too_new":
            return GatewayError(
                "too_new",
                "The request appeared a moment ago; name its 'request_id' or answer again in a second.",
                data={"request_ids": pending},
            )
        case "ambiguous":
            return GatewayError(
                "ambiguous_request",
                "Several requests are open; name the one you answer in 'request_id'.",
                data={"request_ids": pending},
            )
        case "none":
            return GatewayError("no_pending_permission", "No permission request of this session is open.")
        case _:
            return GatewayError("unknown_request", "This session has no such permission request.")
