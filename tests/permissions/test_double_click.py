"""Answers that name no request, as old clients send them: none approves what was not seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Dial, Gateways, Line, Reply, answering
from tests.support.servers import RedisProcess

CLICK = {"approved": True, "reason": "yes"}
DISPLAYED_SECONDS = 1.05


@pytest.fixture
async def line(desk: Desk, dial: Dial) -> Line:
    """A line to a gateway at which a request must have been on screen for a second."""
    return await dial(desk.a)


async def test_a_double_click_never_answers_the_next_request(
    desk: Desk, agent: Agent, dial: Dial, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """Both clicks, 0 to 1.5 s apart, answer what was on screen; what is asked 5 ms later stays open."""

    async def double_click(n: int) -> None:
        session, gap = f"{session_id}-{n}", (0.0, 0.006, 0.02, 0.15, 0.4, 1.5)[n % 6]
        first_line = await dial(desk.a)
        second_line = first_line if n % 2 else await dial(desk.b)
        agent.ask(session, request_id="first")
        await asyncio.sleep(DISPLAYED_SECONDS)
        click = answering(session, CLICK)
        first = first_line.send(click)
        second = second_line.send(click) if gap == 0.0 else None
        assert (await first).status == 200
        await asyncio.sleep(0.005)
        agent.ask(session, request_id="second")
        if second is None:
            await asyncio.sleep(gap)
            second = second_line.send(click)
        replies = [await first, await second]
        assert [reply.status for reply in replies] == [200, 200]
        assert sorted(reply.body["data"]["replayed"] for reply in replies) == [False, True]
        assert replies[0].decision == replies[1].decision
        assert replies[0].decision["request_id"] == "first"
        assert agent.pending(session) == ["second"]

    await asyncio.gather(*(double_click(n) for n in range(scale(30, 300))))


async def test_the_other_button_right_after_is_told_what_counts(
    agent: Agent, line: Line, session_id: str
) -> None:
    """Approve and deny in one moment: the second contradicts the first and touches nothing else."""
    agent.ask(session_id, request_id="first")
    await asyncio.sleep(DISPLAYED_SECONDS)
    first = line.send(answering(session_id, CLICK))
    other = line.send(answering(session_id, {"approved": False}))
    assert (await first).won
    agent.ask(session_id, request_id="second")
    for reply in (await other, await line.send(answering(session_id, {"approved": False}))):
        assert (reply.status, reply.code) == (409, "already_decided")
        assert reply.decision == (await first).decision
    assert agent.pending(session_id) == ["second"]


async def test_a_click_that_comes_after_its_request_is_over_answers_nothing(
    agent: Agent, line: Line, session_id: str
) -> None:
    """A click just after its request was withdrawn or ran out does not answer the next one."""
    for way, status in (("cancel", 409), ("deadline", 410)):
        name, after = f"first-{way}", f"second-{way}"
        agent.ask(session_id, request_id=name)
        await asyncio.sleep(DISPLAYED_SECONDS)
        if way == "cancel":
            agent.call("cancel", session_id, name)
        else:
            agent.make_due(session_id, name)
        agent.ask(session_id, request_id=after)
        reply = await line.send(answering(session_id, CLICK))
        assert reply.status == status
        assert reply.decision["request_id"] == name
        assert agent.pending(session_id) == [after]
        agent.call("cancel", session_id, after)


async def test_a_click_on_an_option_is_repeated_though_the_next_request_has_other_options(
    agent: Agent, line: Line, session_id: str
) -> None:
    """A double click on an option repeats it, whatever the request says that came in between."""
    options = [{"id": "once", "label": "Once", "kind": "allow_once"}]
    agent.ask(session_id, request_id="first", options=options, editable=True, args_digest="d:1")
    await asyncio.sleep(DISPLAYED_SECONDS)
    body = {"approved": True, "option_id": "once", "args_digest": "d:1", "updated_input": {"cmd": "x"}}
    assert (await line.send(answering(session_id, body))).won
    agent.ask(session_id, request_id="second")
    again = await line.send(answering(session_id, body))
    assert (again.status, again.decision["request_id"]) == (200, "first")
    assert agent.pending(session_id) == ["second"]


async def test_two_open_requests_are_a_409_with_their_ids(
    desk: Desk, agent: Agent, dial: Dial, session_id: str
) -> None:
    """With several open requests none is guessed at, not the newest and not the oldest, at any gateway."""
    ids = [agent.ask(session_id)["request_id"] for _ in range(2)]
    for gateway in desk.gateways:
        line = await dial(gateway)
        reply = await line.send(answering(session_id, CLICK))
        assert (reply.status, reply.code, reply.body["request_ids"]) == (409, "ambiguous_request", ids)
    assert agent.pending(session_id) == ids


async def test_an_answer_to_nothing_does_not_answer_the_future(
    desk: Desk, agent: Agent, dial: Dial, session_id: str
) -> None:
    """With nothing open the answer is 404, with a name and without, and what is asked next is still open."""
    lines = [await dial(gateway) for gateway in desk.gateways]
    for line in lines:
        reply = await line.send(answering(session_id, CLICK))
        assert (reply.status, reply.code) == (404, "no_pending_permission")
        reply = await line.send(answering(session_id, CLICK | {"request_id": "next"}))
        assert (reply.status, reply.code) == (404, "unknown_request")
    agent.ask(session_id, request_id="next")
    await asyncio.sleep(DISPLAYED_SECONDS)
    assert agent.pending(session_id) == ["next"]
    assert agent.told(session_id) == []


async def test_a_request_must_have_been_on_screen_for_a_second(
    agent: Agent, line: Line, session_id: str
) -> None:
    """A click within a second is 409 `too_new` and names the request; later the same click counts."""
    agent.ask(session_id, request_id="r")
    replies: list[Reply] = [await line.send(answering(session_id, CLICK)) for _ in range(3)]
    for reply in replies:
        assert (reply.status, reply.code, reply.body["request_ids"]) == (409, "too_new", ["r"])
    assert agent.pending(session_id) == ["r"]
    await asyncio.sleep(DISPLAYED_SECONDS)
    assert (await line.send(answering(session_id, CLICK))).won


async def test_a_click_within_a_second_counts_if_it_names_the_request(
    agent: Agent, line: Line, session_id: str
) -> None:
    """Who names what he answers has seen it."""
    agent.ask(session_id, request_id="r")
    assert (await line.send(answering(session_id, CLICK | {"request_id": "r"}))).won


async def test_a_gateway_can_refuse_answers_without_a_name(
    desk: Desk, agent: Agent, dial: Dial, gateways: Gateways, session_id: str
) -> None:
    """With REQUIRE_REQUEST_ID an answer that names nothing is a 400 and decides nothing."""
    strict = await gateways(desk.server, require_request_id=True, min_display_seconds=0, **CROWDED)
    agent.ask(session_id, request_id="r")
    line = await dial(strict)
    for body in (CLICK, CLICK | {"request_id": None}):
        reply = await line.send(answering(session_id, body))
        assert (reply.status, reply.code) == (400, "request_id_required")
    assert agent.pending(session_id) == ["r"]
    assert (await line.send(answering(session_id, CLICK | {"request_id": "r"}))).won


@pytest.mark.parametrize(
    "other",
    [{"parameters": {"cmd": "rm"}}, {"tool_name": "edit"}, {"args_digest": "d:2"}, {"parameters": None}],
    ids=lambda other: next(iter(other)),
)
async def test_an_old_approval_never_covers_other_arguments(
    desk: Desk, agent: Agent, dial: Dial, session_id: str, other: dict[str, Any]
) -> None:
    """The same request_id with another tool or arguments is refused, before and after the answer."""
    agent.ask(session_id, request_id="r")
    line = await dial(desk.b)
    for decided in (False, True):
        with pytest.raises(redis.exceptions.ResponseError, match=r"^SSE_(REQUEST_MISMATCH|BAD_REQUEST) "):
            agent.ask(session_id, request_id="r", **other)
        standing = agent.standing(session_id, "r")
        assert (standing["status"] == "decided") is decided
        if not decided:
            assert (await line.send(answering(session_id, CLICK | {"request_id": "r"}))).won
    assert len(agent.events(session_id, "permission_request")) == 1


async def test_asked_again_after_the_answer_the_agent_has_the_stored_decision(
    desk: Desk, agent: Agent, dial: Dial, session_id: str
) -> None:
    """The same request again, byte for byte, gives the decision and asks nobody."""
    agent.ask(session_id, request_id="r")
    line = await dial(desk.b)
    decision = (await line.send(answering(session_id, CLICK | {"request_id": "r"}))).decision
    assert agent.ask(session_id, request_id="r") == {"status": "decided", "decision": decision}
    assert len(agent.events(session_id)) == 2


async def test_three_gateways_on_a_server_whose_clock_leaps_agree(
    own_server: RedisProcess, gateways: Gateways, dial: Dial, session_id: str
) -> None:
    """Redis's clock alone decides how long a request has been on screen."""
    gateway = await gateways(own_server, **CROWDED)
    agent = Agent(own_server)
    agent.ask(session_id, request_id="r")
    key = f"sse:{{{session_id}}}:permissions"
    asked = int(own_server.client.hget(key, "asked:r"))
    own_server.client.hset(key, "asked:r", asked - 2000)
    line = await dial(gateway)
    assert (await line.send(answering(session_id, CLICK))).won
    assert json.loads(agent.call("decision", session_id, "r"))["status"] == "decided"
