"""Asking, answering, expiring, cancelling, claiming, ending, restarting: any order follows the state diagram.

The model is docs/permissions.md in a few lines of Python. What agents and people are told by Redis, by two
gateways, by the agent's stream and by the history is compared with it after every step.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.permissions.desk import CROWDED, Agent, Reply, bearer
from tests.support.gateway import BASE_PATH, GatewayProcess
from tests.support.modes import scaled
from tests.support.servers import RedisProcess
from tests.support.wait import until_sync

SCOPES = "sse:read sse:respond sse:publish"
FRESH_SECONDS = 2.0
"""How long an answer that names nothing repeats the last one."""
REQUESTS = st.sampled_from(["r1", "r2", "r3", "r4"])
TOOLS = st.sampled_from([("bash", {"n": 1}), ("bash", {"n": 2}), ("edit", {"n": 1})])
ANSWERS = st.sampled_from(
    [
        {"approved": True},
        {"approved": False},
        {"approved": True, "option_id": "once"},
        {"approved": False, "option_id": "never"},
        {"approved": True, "updated_input": {"n": 3}},
    ]
)
OPTIONS = [
    {"id": "once", "label": "Once", "kind": "allow_once"},
    {"id": "never", "label": "Never", "kind": "reject_always"},
]


@dataclass
class Request:
    """What the model knows of one request."""

    tool: tuple[str, dict[str, int]]
    state: str = "pending"
    answer: dict[str, Any] | None = None
    worker: str | None = None
    decision: dict[str, Any] | None = None


@dataclass
class Model:
    """What should be the case."""

    requests: dict[str, Request] = field(default_factory=dict)
    """In the order asked."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """Decisions, the oldest first."""
    settled_at: float = float("-inf")

    @property
    def pending(self) -> list[str]:
        return [name for name, request in self.requests.items() if request.state == "pending"]

    def settle(self, name: str, state: str, decision: dict[str, Any]) -> None:
        assert decision["request_id"] == name
        request = self.requests[name]
        request.state, request.decision = state, decision
        self.told.append(decision)
        self.settled_at = time.monotonic()


class Permissions(RuleBasedStateMachine):
    """One session, agents and people."""

    server: RedisProcess
    gateways: tuple[GatewayProcess, GatewayProcess]
    """The second takes answers without an id at once."""
    count = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).count += 1
        self.session = f"machine-{self.count}"
        self.agent = Agent(self.server)
        self.model = Model()
        self.restarts = 0
        self.lines = [http.client.HTTPConnection("127.0.0.1", g.port, timeout=10) for g in self.gateways]

    def teardown(self) -> None:
        for line in self.lines:
            line.close()

    def call(self, at: int, method: str, path: str, body: Any = None) -> Reply:
        """Make a call at a gateway, again while it cannot reach Redis, as callers are told to."""
        line = self.lines[at]
        headers = {"Authorization": bearer("ann", self.session, SCOPES), "Content-Type": "application/json"}

        def answered() -> Reply | None:
            try:
                content = None if body is None else json.dumps(body)
                line.request(method, f"{BASE_PATH}{path}", content, headers)
                response = line.getresponse()
                reply = Reply(response.status, json.loads(response.read()))
            except BaseException:
                line.close()
                raise
            return reply if reply.status != 503 else None

        reply: Reply = until_sync(answered, f"{method} {path} to be answered")
        return reply

    def answer(self, at: int, body: dict[str, Any]) -> Reply:
        return self.call(at, "POST", f"/permission-response/{self.session}", body)

    @initialize()
    def watched(self) -> None:
        """Let the gateways' own doings, such as beats, come in between."""
        self.agent.call("beat", self.session, "machine", 1, 1)

    @rule(name=REQUESTS, tool=TOOLS)
    def ask(self, name: str, tool: tuple[str, dict[str, int]]) -> None:
        """The same request again is the same; another under its name is refused."""
        known = self.model.requests.get(name)
        asked: dict[str, Any] = {"request_id": name, "tool_name": tool[0], "parameters": tool[1]}
        asked |= {"options": OPTIONS, "editable": True}
        if known is not None and known.tool != tool:
            with pytest.raises(redis.exceptions.ResponseError, match="SSE_REQUEST_MISMATCH"):
                self.agent.ask(self.session, **asked)
            return
        standing = self.agent.ask(self.session, **asked)
        if known is not None and known.state != "pending":
            assert standing == {"status": "decided", "decision": known.decision}
            return
        assert (standing["status"], standing["request_id"]) == ("pending", name)
        if known is None:
            self.model.requests[name] = Request(tool)

    @rule(name=REQUESTS, body=ANSWERS, at=st.integers(0, 1))
    def answer_named(self, name: str, body: dict[str, Any], at: int) -> None:
        """The first answer counts, the same again repeats it, any other is told what counts."""
        reply = self.answer(at, {**body, "request_id": name})
        request = self.model.requests.get(name)
        if request is None:
            assert (reply.status, reply.code) == (404, "unknown_request")
            return
        if request.state == "pending":
            self.won(name, body, reply)
        elif request.state == "expired":
            assert (reply.status, reply.code, reply.decision) == (410, "request_expired", request.decision)
        elif request.state in ("approved", "denied") and request.answer == body:
            assert (reply.status, reply.body["data"]["replayed"]) == (200, True)
            assert reply.decision == request.decision
        else:
            assert (reply.status, reply.code, reply.decision) == (409, "already_decided", request.decision)

    def won(self, name: str, body: dict[str, Any], reply: Reply) -> None:
        # After a 503 the answer may have counted all the same.
        assert reply.status == 200
        assert reply.won or self.restarts
        decision = reply.decision
        assert decision | body == decision
        assert (decision["decided_by"], decision["source"]) == ("ann", "human")
        self.model.requests[name].answer = body
        self.model.settle(name, "approved" if body["approved"] else "denied", decision)

    @rule(body=ANSWERS)
    def answer_unnamed(self, body: dict[str, Any]) -> None:
        """What names nothing answers the only one, repeats what was settled just now, and never guesses."""
        model = self.model
        age = time.monotonic() - model.settled_at
        if 0.5 * FRESH_SECONDS < age < 1.5 * FRESH_SECONDS:
            return
        reply = self.answer(1, body)
        if age < FRESH_SECONDS:
            last = model.requests[model.told[-1]["request_id"]]
            if last.state == "expired":
                assert (reply.status, reply.decision) == (410, last.decision)
            elif last.state != "cancelled" and last.answer == body:
                assert (reply.status, reply.decision) == (200, last.decision)
                assert reply.body["data"]["replayed"]
            else:
                assert (reply.status, reply.decision) == (409, last.decision)
        elif not model.pending:
            assert (reply.status, reply.code) == (404, "no_pending_permission")
        elif len(model.pending) > 1:
            assert (reply.status, reply.code) == (409, "ambiguous_request")
            assert reply.body["request_ids"] == model.pending
        else:
            self.won(model.pending[0], body, reply)

    @rule(body=ANSWERS)
    @precondition(lambda self: len(self.model.pending) == 1)
    def click_at_once(self, body: dict[str, Any]) -> None:
        """What was asked less than a second ago is answered by name only."""
        if time.monotonic() - self.model.settled_at < 1.5 * FRESH_SECONDS:
            return
        (name,) = self.model.pending
        self.server.client.hset(
            f"sse:{{{self.session}}}:permissions", f"asked:{name}", int(time.time() * 1000)
        )
        reply = self.answer(0, body)
        assert (reply.status, reply.code) == (409, "too_new")

    @rule()
    def let_time_pass(self) -> None:
        """Three seconds pass: all that was settled is older now."""
        key = f"sse:{{{self.session}}}:settled"
        for name in self.server.client.zrange(key, 0, -1):
            self.server.client.zincrby(key, -3000, name)
        self.model.settled_at -= 3

    @rule(
        data=st.data(), by=st.sampled_from(["decision", "list", "read", "claim", "answer", "ask", "status"])
    )
    @precondition(lambda self: self.model.pending)
    def expire(self, data: Any, by: str) -> None:
        """Whoever touches a request first after its deadline finds it expired."""
        name = data.draw(st.sampled_from(self.model.pending))
        self.agent.make_due(self.session, name)
        if by == "list":
            self.call(0, "GET", f"/permissions/{self.session}")
        elif by == "answer":
            reply = self.answer(1, {"approved": True, "request_id": name})
            assert (reply.status, reply.code) == (410, "request_expired")
        elif by == "ask":
            tool, parameters = self.model.requests[name].tool
            self.agent.ask(self.session, request_id=name, tool_name=tool, parameters=parameters)
        elif by == "claim":
            assert self.agent.call("claim", self.session, name, "w1") == 0
        elif by == "decision":
            self.agent.standing(self.session, name)
        else:
            self.agent.call(by, self.session)
        decision = self.agent.standing(self.session, name)["decision"]
        assert (decision["outcome"], decision["source"]) == ("expired", "timeout")
        self.model.settle(name, "expired", decision)

    @rule(name=REQUESTS, reason=st.sampled_from(["", "given up"]))
    def cancel(self, name: str, reason: str) -> None:
        """Giving up settles what is open and changes nothing else."""
        request = self.model.requests.get(name)
        if request is None:
            with pytest.raises(redis.exceptions.ResponseError, match="SSE_UNKNOWN_REQUEST"):
                self.agent.call("cancel", self.session, name, reason)
            return
        decision = json.loads(self.agent.call("cancel", self.session, name, reason))["decision"]
        if request.state == "pending":
            assert (decision["outcome"], decision["source"]) == ("cancelled", "cancel")
            self.model.settle(name, "cancelled", decision)
        assert decision == request.decision

    @rule(name=REQUESTS, worker=st.sampled_from(["w1", "w2"]), over_http=st.booleans())
    def claim(self, name: str, worker: str, over_http: bool) -> None:
        """A human's decision is claimed by the first worker, as often as it asks."""
        request = self.model.requests.get(name)
        if over_http:
            reply = self.call(1, "POST", f"/permissions/{self.session}/{name}/claim", {"worker_id": worker})
            found = reply.body["data"]["claimed"] if reply.status == 200 else reply.code
        else:
            try:
                found = self.agent.call("claim", self.session, name, worker) == 1
            except redis.exceptions.ResponseError as error:
                found = str(error).split()[0].removeprefix("SSE_").lower()
        if request is None:
            assert found == "unknown_request"
            return
        if request.state in ("approved", "denied"):
            request.state, request.worker = "consumed", worker
        assert found is (request.state == "consumed" and request.worker == worker)

    @rule()
    def end(self) -> None:
        """The end of a session cancels what is open, in the order asked."""
        pending = self.model.pending
        assert self.agent.call("end", self.session) == len(pending)
        for name in pending:
            decision = self.agent.standing(self.session, name)["decision"]
            assert (decision["outcome"], decision["reason"]) == ("cancelled", "session_ended")
            self.model.settle(name, "cancelled", decision)

    @rule(empty=st.booleans())
    @precondition(lambda self: self.restarts < 2 and self.model.requests)
    def restart(self, empty: bool) -> None:
        """Redis comes back with everything, or with nothing; in neither case with half of it."""
        self.restarts += 1
        self.server.save()
        self.server.restart(empty=empty)
        if empty:
            self.model = Model()

    @invariant()
    def everybody_agrees(self) -> None:
        """Agent, people, history and stream of answers say what the model says."""
        model, agent = self.model, self.agent
        assert agent.pending(self.session) == model.pending
        assert agent.told(self.session) == model.told
        cleared = [event["data"] for event in agent.events(self.session, "permission_cleared")]
        assert [data | {"message": ""} for data in cleared] == [d | {"message": ""} for d in model.told]
        asked = [event["data"]["request_id"] for event in agent.events(self.session, "permission_request")]
        assert asked == list(model.requests)
        listed = self.call(0, "GET", f"/permissions/{self.session}").body["data"]
        assert [request["request_id"] for request in listed["pending"]] == model.pending
        assert [item["decision"] for item in listed["recent"]] == model.told[::-1]
        assert {item["request_id"]: item["state"] for item in listed["recent"]} == {
            name: request.state for name, request in model.requests.items() if request.state != "pending"
        }


@pytest.fixture
def machine(
    own_server: RedisProcess, two_gateways: tuple[GatewayProcess, GatewayProcess]
) -> type[Permissions]:
    """The machine, with servers of its own."""
    return type("Machine", (Permissions,), {"server": own_server, "gateways": two_gateways})


@pytest.fixture
async def two_gateways(own_server: RedisProcess, gateways: Any) -> tuple[GatewayProcess, GatewayProcess]:
    first = await gateways(own_server, **CROWDED)
    second = await gateways(own_server, min_display_seconds=0, **CROWDED)
    return first, second


@pytest.mark.scaled
@pytest.mark.timeout(600)
def test_any_order_of_events_follows_the_state_diagram(machine: type[Permissions]) -> None:
    """Whatever happens in whatever order, a request is settled once, and everybody is told the same."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=scaled(8, 120),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
