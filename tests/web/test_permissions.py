"""From an agent's question to a human's answer and back, over two gateways."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.wait import until
from tests.web.site import Human, Site, Tab

DECISION = {
    "request_id",
    "outcome",
    "approved",
    "reason",
    "option_id",
    "option_kind",
    "updated_input",
    "args_digest",
    "decided_by",
    "client_id",
    "source",
    "decided_at",
}


async def test_an_answer_reaches_the_agent_and_every_tab(
    any_site: Site, tab: Tab, human: Human, heard: list[Any], session_id: str
) -> None:
    """One answer at gateway A: the agent's stream and channel have it, and tabs of A and B are cleared."""
    site = any_site
    tabs = [await tab(gateway, session_id) for gateway in (site.a, site.b, site.a, site.b)]
    asked = site.ask(
        session_id, tool_name="bash", parameters={"cmd": "rm -rf build"}, risk_level="high", args_digest="d:1"
    )
    assert asked["status"] == "pending"
    request_id = asked["request_id"]
    for stream in tabs:
        request = await stream.message("permission_request")
        assert request["id"] == asked["id"]
        assert request["data"] == {
            "request_id": request_id,
            "tool_name": "bash",
            "parameters": {"cmd": "rm -rf build"},
            "risk_level": "high",
            "args_digest": "d:1",
            "timestamp": request["data"]["timestamp"],
            "expires_at": asked["expires_at"],
            "status": "pending",
        }

    answer = await human.answer(
        site.a, request_id=request_id, reason="fine", client_id="page-1", claims={"sub": "ann"}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["success"] is True
    assert body["message"]
    assert body["data"]["replayed"] is False
    decision = body["data"]["decision"]
    assert decision.keys() == DECISION
    expected = {
        "outcome": "approved",
        "approved": True,
        "reason": "fine",
        "decided_by": "ann",
        "source": "human",
    }
    expected |= {"request_id": request_id, "client_id": "page-1", "args_digest": "d:1", "option_id": None}
    assert decision | expected == decision

    cleared = []
    for stream in tabs:
        event = await stream.message("permission_cleared")
        assert event["data"] == decision | {"message": event["data"]["message"]}
        cleared.append(event["id"])
    assert len(set(cleared)) == 1
    ((entry, fields),) = site.server.client.xrange(f"permission_responses:{{{session_id}}}")
    assert entry
    assert fields.keys() == {"request_id", "outcome", "decision"}
    assert (fields["request_id"], fields["outcome"]) == (request_id, "approved")
    assert json.loads(fields["decision"]) == decision
    await until(lambda: heard == [decision], "the decision on the answers' channel")
    assert json.loads(site.call("sse_decision", session_id, request_id)) == {
        "status": "decided",
        "decision": decision,
    }


async def test_the_first_answer_stands(any_site: Site, human: Human, session_id: str) -> None:
    """The same answer again is a replay, another one a 409 with the winner, at either gateway."""
    request_id = any_site.ask(session_id)["request_id"]
    first = await human.answer(any_site.a, approved=False, request_id=request_id)
    assert first.json()["data"]["outcome"] == "denied"
    for gateway in (any_site.a, any_site.b):
        again = await human.answer(gateway, approved=False, request_id=request_id)
        assert again.status_code == 200
        assert again.json()["data"]["replayed"] is True
        assert again.json()["data"]["decision"] == first.json()["data"]["decision"]
        other = await human.answer(gateway, approved=True, request_id=request_id, claims={"sub": "bob"})
        assert other.status_code == 409
        assert other.json()["code"] == "already_decided"
        assert other.json()["decision"] == first.json()["data"]["decision"]
    assert any_site.server.client.xlen(f"permission_responses:{{{session_id}}}") == 1


async def test_of_many_answers_at_once_one_wins(
    any_site: Site, tab: Tab, human: Human, heard: list[Any], session_id: str
) -> None:
    """Answers raced at two gateways: one wins, all are told of it, and the agent hears of one."""
    stream = await tab(any_site.b, session_id)
    for turn in range(1, 11):
        request_id = any_site.ask(session_id)["request_id"]
        answers = await asyncio.gather(
            *(
                human.answer(gateway, approved=approved, request_id=request_id, claims={"sub": f"user-{n}"})
                for n in range(3)
                for gateway, approved in ((any_site.a, True), (any_site.b, False))
            )
        )
        decisions = []
        won = 0
        for answer in answers:
            body = answer.json()
            decisions.append(body["data"]["decision"] if answer.status_code == 200 else body["decision"])
            won += answer.status_code == 200 and not body["data"]["replayed"]
        assert won == 1
        assert all(decision == decisions[0] for decision in decisions)
        assert [answer.status_code for answer in answers].count(409) == 3
        await stream.message("permission_cleared", count=turn)
        await until(lambda turn=turn: len(heard) >= turn, "the decision")  # type: ignore[misc]
        assert heard[turn - 1 :] == [decisions[0]]
    assert [m["type"] for m in stream.messages] == ["permission_request", "permission_cleared"] * 10


async def test_an_expired_request_is_closed_everywhere(
    any_site: Site, tab: Tab, human: Human, heard: list[Any], session_id: str
) -> None:
    """At the deadline a gateway with a stream settles the request: tabs cleared, agent told, answers 410."""
    streams = [await tab(gateway, session_id) for gateway in (any_site.a, any_site.b)]
    request_id = any_site.ask(session_id, expires_in=0.4)["request_id"]
    for stream in streams:
        cleared = await stream.message("permission_cleared")
        assert cleared["data"]["outcome"] == "expired"
        assert cleared["data"]["source"] == "timeout"
        assert cleared["data"]["approved"] is False
        assert cleared["data"]["decided_by"] is None
    await until(lambda: [d["outcome"] for d in heard] == ["expired"], "the agent to hear of it, once")
    late = await human.answer(any_site.a, request_id=request_id)
    assert (late.status_code, late.json()["code"]) == (410, "request_expired")
    assert late.json()["decision"]["outcome"] == "expired"


async def test_a_plainly_published_request_is_asked_once(
    any_site: Site, tab: Tab, human: Human, session_id: str
) -> None:
    """A request by plain PUBLISH, heard by two gateways, becomes one durable event and can be answered."""
    streams = [await tab(gateway, session_id) for gateway in (any_site.a, any_site.b)]
    data = {"tool_name": "bash", "parameters": {"cmd": "ls"}, "timestamp": "2026-01-01T00:00:00Z"}
    any_site.say(session_id, json.dumps({"type": "permission_request", "data": data}))
    requests = [await stream.message("permission_request") for stream in streams]
    assert requests[0] == requests[1]
    request_id = requests[0]["data"]["request_id"]
    assert request_id.startswith("lg-")
    assert len(request_id) == 23
    assert (await human.answer(any_site.a)).json()["data"]["request_id"] == request_id
    for stream in streams:
        await stream.message("permission_cleared")
        assert [message["type"] for message in stream.messages] == [
            "permission_request",
            "permission_cleared",
        ]
        assert len(stream.ids) == 2


async def test_each_decision_has_its_line_in_the_log(site: Site, human: Human, session_id: str) -> None:
    """The audit trail names who decided what, and never what the tool was to be run with."""
    request_id = site.ask(session_id, parameters={"cmd": "s3cret-argument"})["request_id"]
    await human.answer(site.a, request_id=request_id, claims={"sub": "ann"})
    lines = [line for line in site.a.logs("permission_decided") if line["session"] == session_id]
    assert len(lines) == 1
    found = {name: lines[0][name] for name in ("level", "request_id", "outcome", "decided_by", "source")}
    assert found == {
        "level": "info",
        "request_id": request_id,
        "outcome": "approved",
        "decided_by": "ann",
        "source": "human",
    }
    assert "s3cret-argument" not in site.a.log_text()
