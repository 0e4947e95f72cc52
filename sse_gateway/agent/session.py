"""One agent conversation: what the agent says to its viewers, and what it asks them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from sse_gateway.agent import current
from sse_gateway.agent.asks import Ask, Option, RiskLevel, check_request_id
from sse_gateway.agent.decisions import Decision
from sse_gateway.agent.encoding import check_text, encode
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import EVENT_TYPE, RESERVED_TYPES, check_plain
from sse_gateway.core.keys import check_session_id

if TYPE_CHECKING:
    from sse_gateway.agent.client import AgentClient


class Session:
    """Publish to one session and ask its viewers; made by `AgentClient.session`, costs nothing to make.

    All calls raise GatewayError, whose `code` and message say what was refused and what to do, and
    Unavailable, a kind of it, when Redis could not be reached within the client's `call_seconds`.

    `with session:` makes it the session of every `@requires_permission` function called inside.
    """

    def __init__(self, client: AgentClient, session_id: str, *, owner: str = "") -> None:
        self.client = client
        self.session_id = check_session_id(session_id)
        self.owner = check_text(owner, "owner")

    def __repr__(self) -> str:
        return f"<Session {self.session_id}>"

    def __enter__(self) -> Self:
        current.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        current.leave()

    async def tool_status(
        self, status: str, *, tool_name: str | None = None, tool_call_id: str | None = None, **details: Any
    ) -> str:
        """Publish how a tool call stands ("executing", "completed", …); return the event's id.

        The last status of each `tool_call_id` is part of what a page that comes later is shown.
        """
        data = _members(details, tool_name=tool_name, tool_call_id=tool_call_id, status=status)
        return await self._publish("tool_status", data)

    async def tool_result(
        self,
        tool_name: str,
        result: Any = None,
        *,
        success: bool = True,
        tool_call_id: str | None = None,
        error: str | None = None,
        **details: Any,
    ) -> str:
        """Publish what a tool call came to; return the event's id."""
        data = _members(
            details,
            tool_name=tool_name,
            tool_call_id=tool_call_id,
            success=success,
            result=result,
            error=error,
        )
        return await self._publish("tool_result", data)

    async def publish(
        self, event_type: str, data: Any = None, *, durable: bool = True, idempotency_key: str | None = None
    ) -> str | None:
        """Publish an event of any type (1 to 64 of A-Z a-z 0-9 _ . -) and return its id.

        Published exactly once, whatever happens on the way; with an `idempotency_key` of your own also when
        the whole agent is restarted in between (the same key with the same event within five minutes).

        `durable=False`, for text that comes token by token: at most once, only to streams that are open now,
        with no id and no place in the history; returns None.
        """
        if not durable:
            if idempotency_key is not None:
                raise GatewayError("bad_request", "Only durable events have an idempotency_key.")
            await self._publish_transient(event_type, data)
            return None
        return await self._publish(event_type, data, idempotency_key=idempotency_key)

    async def request_permission(
        self,
        tool_name: str,
        parameters: Mapping[str, Any],
        *,
        risk_level: RiskLevel = "medium",
        timeout: float | None = None,  # noqa: ASYNC109 (Redis keeps it, also when this process is gone)
        request_id: str | None = None,
        title: str | None = None,
        description: str | None = None,
        tool_call_id: str | None = None,
        options: Sequence[Option | Mapping[str, str]] = (),
        editable: bool = False,
        on_no_viewer: str = "wait",
        withdraw_on_cancel: bool = True,
    ) -> Decision:
        """Ask a human whether a tool may run with these parameters, and return what was decided.

        The decision comes at the latest when `timeout` seconds have passed (the server's setting without
        it), as `expired` if nobody answered. Redis restarting meanwhile changes nothing; Unavailable is
        raised when it stays away until after the deadline.

        `request_id` makes the request one that survives this process: an agent that asks again with the same
        id, tool and parameters gets the same pending request or the stored decision. Other parameters under a
        known id are refused (`request_mismatch`).

        `on_no_viewer`: `wait`; `fail`, give up when nobody who may answer is watching, for a second;
        `deny_after:SECONDS`, give up when nobody was for so long, at least a second. Giving up is the outcome
        `cancelled` with the reason `no_viewer`, never a denial. An outage of Redis is no absence.

        A cancelled task withdraws its request; with `withdraw_on_cancel=False` it leaves it open, for the
        agent that takes over. Run the tool with `decision.arguments(parameters)`, after `claim` if another
        worker could have asked the same.
        """
        ask = Ask.make(
            self.session_id,
            tool_name,
            parameters,
            owner=self.owner,
            request_id=request_id,
            risk_level=risk_level,
            timeout=timeout,
            title=title,
            description=description,
            tool_call_id=tool_call_id,
            options=options,
            editable=editable,
            on_no_viewer=on_no_viewer,
            max_bytes=self.client.max_event_bytes,
        )
        return await self.client.waiting.decide(ask, withdraw_on_cancel=withdraw_on_cancel)

    async def viewers(self) -> int:
        """Return how many streams whose token may answer are open, over all gateways.

        A stream counts from a moment after it opened; those of a gateway that was killed count for half a
        minute. To act upon nobody's being there, give `request_permission` an `on_no_viewer`.
        """
        status = await self.client.calls.call("status", self.session_id)
        return int(status[6])

    async def decision(self, request_id: str) -> Decision | None:
        """Return how a request was settled, or None while it is open; raises `unknown_request`."""
        reply = await self.client.calls.call("decision", self.session_id, check_request_id(request_id))
        return _decided(reply)

    async def claim(self, decision: Decision | str, worker_id: str | None = None) -> bool:
        """Take a decision to act upon it; of all workers one gets True, and gets it again when it asks again.

        Each decision that was waited for is a worker of its own: where several tasks asked under one
        `request_id` and got the same approval, one of them gets True. An agent that must get True again after
        a restart gives a `worker_id` that outlives it. Where `decision` is but a request's id, the client is
        the worker. Nobody can claim what expired or was cancelled.
        """
        if worker_id is None:
            worker_id = self.client.worker_id
            if isinstance(decision, Decision):
                worker_id += f":{decision.wait_id}"
        request_id = _request_id(decision)
        return await self.client.claim(self.session_id, request_id, check_text(worker_id, "worker_id"))

    async def cancel(self, request: Decision | str, reason: str = "") -> Decision:
        """Withdraw an open request and return the decision that stands: this, or what came before it."""
        reason = check_text(reason, "reason")
        reply = await self.client.calls.call("cancel", self.session_id, _request_id(request), reason)
        decision = _decided(reply)
        assert decision is not None
        return decision

    async def end(self, reason: str = "") -> int:
        """End the session: its streams close for good, its open requests are cancelled; return how many.

        A later publish opens it again.
        """
        return int(await self.client.calls.call("end", self.session_id, check_text(reason, "reason")))

    async def _publish(self, event_type: str, data: Any, *, idempotency_key: str | None = None) -> str:
        event = self._encode(event_type, data)
        key = idempotency_key or self.client.next_key()
        reply = await self.client.calls.call("publish", self.session_id, event, key, self.owner)
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    async def _publish_transient(self, event_type: str, data: Any) -> None:
        event = self._encode(event_type, data)
        plain = check_plain(event, self.session_id, max_bytes=self.client.max_event_bytes)
        channel = self.client.keys.events_channel(self.session_id)
        await self.client.calls.publish(channel, plain.data)

    def _encode(self, event_type: str, data: Any) -> bytes:
        if EVENT_TYPE.fullmatch(check_text(event_type, "an event's type")) is None:
            raise GatewayError(
                "invalid_event", "An event's type is 1 to 64 of the characters A-Z a-z 0-9 _ . -"
            )
        if event_type in RESERVED_TYPES:
            raise GatewayError("invalid_event", f"Events of type {event_type} are made by the gateway alone.")
        if event_type == "permission_request":
            raise GatewayError("invalid_event", "A permission is asked for by request_permission().")
        event = {"type": event_type, "data": {} if data is None else data}
        return encode(event, f"the event {event_type}", max_bytes=self.client.max_event_bytes)


def _members(details: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    given = {name: value for name, value in members.items() if value is not None or name == "result"}
    return {**given, **details}


def _request_id(request: Decision | str) -> str:
    return check_request_id(request.request_id if isinstance(request, Decision) else request)


def _decided(reply: bytes | str) -> Decision | None:
    standing = json.loads(reply)
    return Decision.parse(standing["decision"]) if standing["status"] == "decided" else None
