"""What a request for permission ends in: a `Decision`, or an exception that carries one.

    PermissionRefused                    the tool must not run; `.decision` says why
    ├── PermissionDenied                 a human said no
    ├── PermissionExpired                nobody answered in time
    ├── PermissionCancelled              withdrawn by the agent, with its session, or for want of a viewer
    └── PermissionTaken                  approved, and another worker is already acting upon it

Only `requires_permission` raises these; `request_permission` returns the decision whatever it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

from sse_gateway.core.errors import GatewayError

Outcome = Literal["approved", "denied", "expired", "cancelled"]
OptionKind = Literal["allow_once", "allow_session", "allow_always", "reject_once", "reject_always"]
Source = Literal["human", "timeout", "cancel"]


@dataclass(frozen=True, slots=True)
class Decision:
    """How a request was settled, for good."""

    request_id: str
    outcome: Outcome
    approved: bool
    reason: str | None = None
    """The human's words, or why it was cancelled (`no_viewer`: nobody was there to ask)."""
    option_id: str | None = None
    option_kind: OptionKind | None = None
    """What "session" and "always" cover is up to the agent: nothing else remembers it."""
    updated_input: dict[str, Any] | None = None
    """The parameters as the human edited them, where the request was `editable`."""
    args_digest: str | None = None
    decided_by: str | None = None
    """The user who answered, from the token and never from the answer's body."""
    client_id: str | None = None
    source: Source = "human"
    decided_at: datetime | None = None
    """On Redis's clock, in UTC."""
    wait_id: str = field(default_factory=lambda: secrets.token_hex(8), compare=False, repr=False)
    """Tells this wait from every other for the same request: of all of them one may claim it."""

    @classmethod
    def parse(cls, members: Mapping[str, Any]) -> Decision:
        """Return the decision that the scripts wrote; members this version does not know are left out."""
        at = members.get("decided_at")
        return cls(
            request_id=members["request_id"],
            outcome=members["outcome"],
            approved=members["approved"] is True and members["outcome"] == "approved",
            reason=members.get("reason"),
            option_id=members.get("option_id"),
            option_kind=members.get("option_kind"),
            updated_input=members.get("updated_input"),
            args_digest=members.get("args_digest"),
            decided_by=members.get("decided_by"),
            client_id=members.get("client_id"),
            source=cast(Source, members.get("source", "human")),
            decided_at=datetime.fromisoformat(at) if isinstance(at, str) else None,
        )

    @classmethod
    def expired(cls, request_id: str, args_digest: str) -> Decision:
        """Return what a request ends in whose deadline passed while Redis had lost it."""
        return cls(
            request_id=request_id,
            outcome="expired",
            approved=False,
            reason="expired",
            args_digest=args_digest,
            source="timeout",
            decided_at=datetime.now(UTC),
        )

    def arguments(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was approved: the human's edit, else the parameters as asked."""
        return dict(asked) if self.updated_input is None else self.updated_input


class PermissionRefused(Exception):
    """Tell that a tool must not run, with the decision that says so."""

    def __init__(self, decision: Decision, tool_name: str) -> None:
        self.decision = decision
        self.tool_name = tool_name
        super().__init__(self._sentence())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.decision, self.tool_name)

    def _sentence(self) -> str:
        return f"{self.tool_name} may not run: {self.decision.outcome}."

    def _reason(self) -> str:
        return f": {self.decision.reason}" if self.decision.reason else "."


class PermissionDenied(PermissionRefused):
    """Tell that a human said no."""

    def _sentence(self) -> str:
        return f"{self.tool_name} was denied by {self.decision.decided_by or 'somebody'}{self._reason()}"


class PermissionExpired(PermissionRefused):
    """Tell that nobody answered in time, which is not a no."""

    def _sentence(self) -> str:
        return f"Nobody answered in time whether {self.tool_name} may run."


class PermissionCancelled(PermissionRefused):
    """Tell that the request was withdrawn before anybody answered."""

    def _sentence(self) -> str:
        if self.decision.reason == "no_viewer":
            return f"Nobody was there to be asked whether {self.tool_name} may run."
        return f"The request to run {self.tool_name} was withdrawn{self._reason()}"


class PermissionTaken(PermissionRefused):
    """Tell that the approval was already claimed: another worker runs the tool, or has run it."""

    def _sentence(self) -> str:
        return f"{self.tool_name} was approved, and another worker has claimed the approval."


_REFUSALS: dict[str, type[PermissionRefused]] = {
    "denied": PermissionDenied,
    "expired": PermissionExpired,
    "cancelled": PermissionCancelled,
}


def refusal(decision: Decision, tool_name: str) -> PermissionRefused:
    """Return the exception for a decision that is no approval."""
    return _REFUSALS.get(decision.outcome, PermissionRefused)(decision, tool_name)


def check_digest(decision: Decision, digest: str) -> Decision:
    """Return `decision`, or raise `digest_mismatch` when it approves other arguments than ours.

    The scripts already see to this; an approval is worth a second look.
    """
    if decision.approved and decision.args_digest not in (None, digest):
        raise GatewayError("digest_mismatch", "The approval is for other arguments than were asked for.")
    return decision
