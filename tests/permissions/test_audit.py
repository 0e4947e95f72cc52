"""The audit trail: one line for each decision, written by one of the gateways, whoever decided."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from sse_gateway.agent import AgentClient
from sse_gateway.core.keys import Keys
from sse_gateway.gateway.audit import Audit
from sse_gateway.metrics import Metrics
from sse_gateway.store.connection import Store
from sse_gateway.store.permissions import Permissions, Request
from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Dial, Gateways, Tab, answering
from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.wait import until

Agents = Callable[..., AgentClient]
DECIDED = 'sse_gateway_permission_decisions_total{outcome="%s",source="%s"}'
SECRET = "s3cret-argument"
AT_LAST_SECONDS = 0.8
"""After so long every gateway that heard of a decision has made up its mind about the line."""
AT_LAST_OF_ANSWERS_SECONDS = 3.5
"""The same where a human decided: who took the answer has precedence."""


def lines(gateways: Sequence[GatewayProcess], session_id: str) -> list[dict[str, Any]]:
    """Return the lines about a session's decisions, of all gateways, in the order they were decided."""
    found = [line for gateway in gateways for line in gateway.logs("permission_decided")]
    return sorted(
        (line for line in found if line["session"] == session_id), key=lambda line: line["decided_at"]
    )


async def one_each(gateways: Sequence[GatewayProcess], session_id: str, count: int) -> list[dict[str, Any]]:
    """Wait for so many lines, and see that no further ones come."""
    await until(lambda: len(lines(gateways, session_id)) >= count, f"{count} lines")
    answered = any(line["source"] == "human" for line in lines(gateways, session_id))
    await asyncio.sleep(AT_LAST_OF_ANSWERS_SECONDS if answered else AT_LAST_SECONDS)
    found = lines(gateways, session_id)
    assert len(found) == count, found
    assert len({(line["request_id"], line["decided_at"]) for line in found}) == count
    return found


async def test_the_line_of_an_answer_says_who_decided_what_and_no_more(
    desk: Desk, agent: Agent, dial: Dial, tab: Tab, session_id: str
) -> None:
    """Exactly these members, in the log of the gateway that took the answer; nothing of what is to be run."""
    for gateway in desk.gateways:
        await tab(gateway, session_id)
    agent.ask(
        session_id,
        request_id="r",
        parameters={"cmd": SECRET},
        title=SECRET,
        editable=True,
        options=[{"id": "once", "label": SECRET, "kind": "allow_once"}],
    )
    line = await dial(desk.b)
    body = {"approved": True, "request_id": "r", "option_id": "once", "reason": "it is needed"}
    answer = answering(
        session_id, body | {"updated_input": {"cmd": SECRET * 2}}, user="ann", X_Request_ID="trace-1"
    )
    reply = await line.send(answer)
    assert reply.won
    (found,) = lines([desk.b], session_id)
    assert found.keys() - {"time", "logger"} == {
        "level",
        "message",
        "session",
        "request_id",
        "outcome",
        "decided_by",
        "source",
        "reason",
        "option_id",
        "decided_at",
        "http_request_id",
    }
    said = {name: found[name] for name in found if name not in ("time", "logger")}
    assert said == {
        "level": "info",
        "message": "permission_decided",
        "session": session_id,
        "request_id": "r",
        "outcome": "approved",
        "decided_by": "ann",
        "source": "human",
        "reason": "it is needed",
        "option_id": "once",
        "decided_at": reply.decision["decided_at"],
        "http_request_id": "trace-1",
    }
    assert (await line.send(answer)).body["data"]["replayed"] is True
    other = answering(session_id, {"approved": False, "request_id": "r"}, user="bob")
    assert (await line.send(other)).status == 409
    await one_each(desk.gateways, session_id, 1)
    assert not [gateway for gateway in desk.gateways if SECRET in gateway.log_text()]


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
async def test_each_decision_has_one_line_over_three_gateways(
    desk: Desk,
    agent: Agent,
    agents: Agents,
    dial: Dial,
    tab: Tab,
    session_id: str,
    watched: bool,
) -> None:
    """However a request is settled, and whether or not anybody watches, one gateway writes one line."""

    async def counts() -> dict[str, float]:
        series = [
            DECIDED % pair for pair in (("expired", "timeout"), ("cancelled", "cancel"), ("denied", "human"))
        ]
        found = [await gateway.metrics() for gateway in desk.gateways]
        return {name: sum(one.get(name, 0.0) for one in found) for name in series}

    before = await counts()
    if watched:
        for gateway in desk.gateways:
            await tab(gateway, session_id)

    async def by_a_human(name: str) -> None:
        line = await dial(desk.c)
        assert (await line.send(answering(session_id, {"approved": False, "request_id": name}))).won

    async def by_an_agent_that_gives_up(name: str) -> None:
        agent.call("cancel", session_id, name)

    async def by_an_agent_that_looks_late(name: str) -> None:
        agent.make_due(session_id, name)
        agent.standing(session_id, name)

    async def by_a_page_that_looks_late(name: str) -> None:
        agent.make_due(session_id, name)
        line = await dial(desk.a)
        late = await line.send(answering(session_id, {"approved": True, "request_id": name}))
        assert late.status == 410

    async def by_the_end_of_the_session(_name: str) -> None:
        agent.call("end", session_id)

    ways: list[Callable[[str], Awaitable[None]]] = [
        by_a_human,
        by_an_agent_that_gives_up,
        by_an_agent_that_looks_late,
        by_a_page_that_looks_late,
        by_the_end_of_the_session,
    ]
    for way in ways:
        agent.ask(session_id, request_id=way.__name__)
        await way(way.__name__)
    session = agents(desk.server).session(session_id)
    await session.request_permission("bash", {}, request_id="by_the_deadline", timeout=0.3)
    found = await one_each(desk.gateways, session_id, len(ways) + 1)
    assert {line["request_id"]: (line["outcome"], line["source"]) for line in found} == {
        "by_a_human": ("denied", "human"),
        "by_an_agent_that_gives_up": ("cancelled", "cancel"),
        "by_an_agent_that_looks_late": ("expired", "timeout"),
        "by_a_page_that_looks_late": ("expired", "timeout"),
        "by_the_end_of_the_session": ("cancelled", "cancel"),
        "by_the_deadline": ("expired", "timeout"),
    }
    assert {name: count - before[name] for name, count in (await counts()).items()} == {
        DECIDED % ("expired", "timeout"): 3,
        DECIDED % ("cancelled", "cancel"): 2,
        DECIDED % ("denied", "human"): 1,
    }


async def test_of_hundreds_of_decisions_each_has_one_line(
    desk: Desk, agent: Agent, tab: Tab, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """Deadlines of many requests in one moment, with streams at every gateway: as many lines as requests."""
    sessions = [f"{session_id}-{n}" for n in range(scale(4, 40))]
    for name in sessions:
        for gateway in desk.gateways:
            await tab(gateway, name)
    for name in sessions:
        for n in range(25):
            agent.ask(name, request_id=f"r{n}", expires_in=0.5)
    for name in sessions:
        await until(lambda name=name: len(lines(desk.gateways, name)) >= 25, "a line each")  # type: ignore[misc]
    await asyncio.sleep(AT_LAST_SECONDS)
    for name in sessions:
        assert sorted(line["request_id"] for line in lines(desk.gateways, name)) == sorted(
            f"r{n}" for n in range(25)
        )


async def test_what_is_merely_said_on_a_channel_has_no_line(
    desk: Desk, agent: Agent, session_id: str
) -> None:
    """Whoever may PUBLISH cannot write into the audit trail, nor change what it says of a true decision."""
    agent.ask(session_id, request_id="open")
    agent.ask(session_id, request_id="settled", tool_name="deploy")
    decision = json.loads(agent.call("cancel", session_id, "settled", "given up"))["decision"]
    forged = {
        "request_id": "open",
        "outcome": "approved",
        "approved": True,
        "source": "human",
        "decided_by": "root",
        "decided_at": decision["decided_at"],
    }
    channel = f"permission_response:{session_id}"
    for said in (
        forged,
        forged | {"request_id": "nobody-asked"},
        forged | {"request_id": "settled"},
        forged | {"request_id": "settled", "decided_at": "2026-01-01T00:00:00.000Z"},
        forged | {"request_id": "a}b"},
        forged | {"request_id": "settled", "decided_at": "x" * 1000},
        forged | {"request_id": None, "decided_at": None},
        [forged],
    ):
        desk.server.client.publish(channel, json.dumps(said))
    desk.server.client.publish(f"permission_response:{session_id}}}:x", json.dumps(forged))
    (found,) = await one_each(desk.gateways, session_id, 1)
    assert (found["request_id"], found["outcome"], found["decided_by"]) == ("settled", "cancelled", None)
    assert found["reason"] == "given up"


@pytest.mark.parametrize("forged_sessions", [1, 200], ids=["the same session", "two hundred sessions"])
async def test_attack_flood_of_forged_decisions(
    desk: Desk, agent: Agent, session_id: str, forged_sessions: int
) -> None:
    """Audit: who may only PUBLISH keeps no true decision out of the trail, and leaves nothing in Redis."""
    agent.ask(session_id, request_id="before")
    agent.ask(session_id, request_id="after")
    forged = {"source": "human", "outcome": "approved", "decided_at": "2026-01-01T00:00:00.000Z"}
    names = [session_id, *(f"{session_id}-{n}" for n in range(1, forged_sessions))]
    with desk.server.client.pipeline(transaction=False) as together:
        for n in range(12_000):
            said = json.dumps(forged | {"request_id": f"forged-{n}"})
            together.publish(f"permission_response:{names[n % forged_sessions]}", said)
        together.execute_command("FCALL", "sse_cancel", 1, session_id, "before")
        together.execute()
    agent.call("cancel", session_id, "after")
    found = await one_each(desk.gateways, session_id, 2)
    assert [line["request_id"] for line in found] == ["before", "after"]
    marks = list(desk.server.client.scan_iter(f"sse:{{{session_id}*:audited:*", count=1000))
    assert len(marks) == 2, marks


async def test_a_decision_made_while_redis_is_asked_about_a_forged_one_has_its_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Attack: have Redis asked at the wrong moment, so that the true message is taken for a repetition."""
    decision = {"request_id": "r", "outcome": "expired", "source": "timeout", "decided_at": "2026-01-01"}
    asked, told = asyncio.Event(), asyncio.Event()

    class Scripts:
        """Redis: it says that the request is open, and while that is on its way the request is settled."""

        keys = Keys("")

        async def request(self, _session_id: str, _request_id: str) -> Request:
            if asked.is_set():
                return Request("expired", b"{}", 0, 0, json.dumps(decision).encode(), None, "")
            asked.set()
            await told.wait()
            return Request("pending", b"{}", 0, 0, None, None, "")

        async def command(self, *_words: Any) -> None:
            """Set a mark that nobody else has set."""

    scripts = Scripts()
    audit = Audit(cast(Store, scripts), permissions=cast(Permissions, scripts), metrics=Metrics())
    caplog.set_level("INFO", "sse_gateway.gateway.records")
    audit.heard("s", decision | {"outcome": "approved"})
    await asked.wait()
    audit.heard("s", decision)
    told.set()
    await until(lambda: caplog.messages == ["permission_decided"], "the line")
    await audit.stop()


@pytest.mark.chaos
async def test_what_the_push_connection_missed_and_what_a_gateway_heard_last_have_their_lines(
    own_server: RedisProcess, gateways: Gateways, tab: Tab, session_id: str
) -> None:
    """What was decided while no gateway listened is found in the history; what just before the end, told."""
    two = await asyncio.gather(*(gateways(own_server, **CROWDED) for _ in range(2)))
    agent = Agent(own_server)
    streams = [await tab(gateway, session_id) for gateway in two]
    agent.ask(session_id, request_id="missed")
    with own_server.client.pipeline(transaction=False) as together:
        together.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        together.execute_command("FCALL", "sse_cancel", 1, session_id, "missed")
        together.execute()
    for stream in streams:
        await stream.message("permission_cleared", seconds=15)
    (found,) = await one_each(two, session_id, 1)
    assert (found["request_id"], found["outcome"]) == ("missed", "cancelled")
    two[0].stop()
    agent.ask(session_id, request_id="last")
    await streams[1].message("permission_request", count=2)
    agent.call("cancel", session_id, "last")
    await streams[1].message("permission_cleared", count=2)
    assert two[1].stop() == 0
    assert [line["request_id"] for line in lines(two, session_id)] == ["missed", "last"]
