"""`on_no_viewer`: what becomes of a request while nobody is there who could answer it, over all gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from sse_gateway.agent import AgentClient, Session
from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Dial, Gateways, Tab, answering
from tests.support.servers import RedisProcess
from tests.support.wait import until

Agents = Callable[..., AgentClient]
GIVEN_UP = ("cancelled", "no_viewer", "cancel")
FORGOTTEN_MS = 30_000
"""Three beats: after so long a gateway that says nothing any more does not count."""


@pytest.fixture
def session(desk: Desk, agents: Agents, session_id: str) -> Session:
    """The test's session, seen by its agent."""
    return agents(desk.server).session(session_id)


def counted(agent: Agent, session_id: str) -> int:
    """Return how many viewers Redis counts over all gateways."""
    return int(agent.call("status", session_id)[6])


async def ask(session: Session, name: str, policy: str, timeout: float = 60) -> tuple[str, str | None, str]:
    """Ask under a policy and return outcome, reason and source."""
    decision = await session.request_permission(
        "bash", {}, request_id=name, on_no_viewer=policy, timeout=timeout
    )
    return decision.outcome, decision.reason, decision.source


async def test_nobody_is_there_so_the_policy_decides(agent: Agent, session: Session, session_id: str) -> None:
    """`fail` gives up in a second, `deny_after` after its time, `wait` at the deadline; none is a denial."""
    began = time.monotonic()
    assert await ask(session, "fail", "fail") == GIVEN_UP
    assert 1 <= time.monotonic() - began < 2
    began = time.monotonic()
    assert await ask(session, "deny-after", "deny_after:1.4") == GIVEN_UP
    assert time.monotonic() - began > 1.4
    assert await ask(session, "wait", "wait", timeout=0.5) == ("expired", "expired", "timeout")
    told = [(d["outcome"], d["approved"]) for d in agent.told(session_id)]
    assert told == [("cancelled", False), ("cancelled", False), ("expired", False)]


async def test_a_viewer_at_any_gateway_counts(
    desk: Desk, agent: Agent, session: Session, tab: Tab, dial: Dial, session_id: str
) -> None:
    """One who may answer, at whichever gateway, keeps requests open under every policy."""
    for n, gateway in enumerate(desk.gateways):
        await tab(desk.gateways[n - 1], session_id, claims={"scope": "sse:read"})
        viewer = await tab(gateway, session_id)
        await until(lambda: counted(agent, session_id) == 1, "the viewer to be counted")
        policies = ("wait", "deny_after:0.3", "fail")
        asking = [asyncio.create_task(ask(session, f"r{n}-{at}", p)) for at, p in enumerate(policies)]
        await viewer.message("permission_request", count=3)
        await asyncio.sleep(0.8)
        assert not any(waiting.done() for waiting in asking)
        line = await dial(desk.gateways[(n + 1) % 3])
        for at in range(3):
            answer = answering(session_id, {"approved": True, "request_id": f"r{n}-{at}"})
            assert (await line.send(answer)).won
        assert [outcome for outcome, _, _ in await asyncio.gather(*asking)] == ["approved"] * 3
        viewer.close()
        await until(lambda: counted(agent, session_id) == 0, "the viewer to be gone")


@pytest.mark.parametrize("policy", ["fail", "deny_after:0.1"])
async def test_who_has_just_come_is_somebody(
    desk: Desk, agent: Agent, session: Session, tab: Tab, dial: Dial, session_id: str, policy: str
) -> None:
    """A request asked in the moment after a stream opened, when Redis has not been told of it."""
    viewer = await tab(desk.b, session_id)
    asking = asyncio.create_task(ask(session, "r", policy))
    await viewer.message("permission_request")
    await until(lambda: counted(agent, session_id) == 1, "the viewer to be counted")
    line = await dial(desk.a)
    assert (await line.send(answering(session_id, {"approved": True, "request_id": "r"}))).won
    assert (await asking)[0] == "approved"


async def test_redis_that_forgot_who_is_watching_is_told_when_it_is_back(
    own_server: RedisProcess,
    gateways: Gateways,
    agents: Agents,
    tab: Tab,
    dial: Dial,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """Of all sessions, long before the next beat; a request that needs somebody to be there goes on."""
    gateway = await gateways(own_server, **CROWDED)
    agent = Agent(own_server)
    names = [f"{session_id}-{n}" for n in range(scale(120, 1000))]
    viewers = await asyncio.gather(*(tab(gateway, name) for name in names))
    await until(lambda: all(counted(agent, name) == 1 for name in names), "the viewers to be counted")
    session = agents(own_server).session(names[-1])
    asking = [asyncio.create_task(ask(session, p, p)) for p in ("fail", "deny_after:0.1")]
    await viewers[-1].message("permission_request", count=2)
    await asyncio.to_thread(own_server.restart, empty=True)
    await gateway.answers("/readyz")
    await until(lambda: all(counted(agent, name) == 1 for name in names), "to be counted again", seconds=3)
    await until(lambda: len(agent.pending(names[-1])) == 2, "the requests to be open again")
    line = await dial(gateway)
    for request_id in agent.pending(names[-1]):
        answer = {"approved": True, "request_id": request_id}
        assert (await line.send(answering(names[-1], answer))).won
    assert [outcome for outcome, _, _ in await asyncio.gather(*asking)] == ["approved"] * 2


async def test_who_may_only_look_is_nobody(
    desk: Desk, agent: Agent, session: Session, tab: Tab, session_id: str
) -> None:
    """Streams whose token lacks `sse:respond` see the request come and go, at every gateway."""
    lookers = [await tab(gateway, session_id, claims={"scope": "sse:read"}) for gateway in desk.gateways]
    await until(lambda: int(agent.call("status", session_id)[5]) == 3, "the streams to be counted")
    assert await ask(session, "fail", "fail") == GIVEN_UP
    assert await ask(session, "deny-after", "deny_after:0.3") == GIVEN_UP
    for stream in lookers:
        cleared = await stream.message("permission_cleared", count=2)
        assert (cleared["data"]["outcome"], cleared["data"]["reason"]) == ("cancelled", "no_viewer")


async def test_the_last_viewer_s_leaving_begins_the_time(
    desk: Desk, agent: Agent, session: Session, tab: Tab, session_id: str
) -> None:
    """`deny_after` counts from when nobody was there any more, over all gateways."""
    viewers = [await tab(gateway, session_id) for gateway in desk.gateways]
    await until(lambda: counted(agent, session_id) == 3, "the viewers to be counted")
    waiting = asyncio.create_task(ask(session, "r", "deny_after:0.6"))
    for viewer in viewers:
        assert not waiting.done()
        await viewer.message("permission_request")
        await asyncio.sleep(0.4)
        viewer.close()
    left_at = time.monotonic()
    assert await asyncio.wait_for(waiting, 10) == GIVEN_UP
    assert time.monotonic() - left_at > 0.5


@pytest.mark.chaos
async def test_a_gateway_killed_in_its_tracks_is_forgotten_after_three_beats(
    desk: Desk,
    gateways: Gateways,
    agent: Agent,
    session: Session,
    tab: Tab,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """Its viewers count for 30 s after its last beat, and then a request that needs one is given up."""
    victim = await gateways(desk.server, **CROWDED)
    viewer = await tab(victim, session_id)
    looker = await tab(desk.a, session_id, claims={"scope": "sse:read"})
    await until(lambda: counted(agent, session_id) == 1, "the viewer to be counted")
    waiting = asyncio.create_task(ask(session, "r", "deny_after:0.2", timeout=120))
    await viewer.message("permission_request")
    victim.kill()
    assert await viewer.ended() == "cut"
    # In `make test` its last beat was nearly that long ago.
    key = f"sse:{{{session_id}}}:streams"
    beats = {name: beat for name, beat in desk.server.client.hgetall(key).items() if beat.startswith("1:1:")}
    ((gateway_id, beat),) = beats.items()
    beaten_ms = int(beat.split(":")[2]) - scale(FORGOTTEN_MS - 2000, 0)
    desk.server.client.hset(key, gateway_id, f"1:1:{beaten_ms}")
    assert counted(agent, session_id) == 1
    assert not waiting.done()
    assert await asyncio.wait_for(waiting, 60) == GIVEN_UP
    seconds, micros = desk.server.client.time()
    assert FORGOTTEN_MS <= seconds * 1000 + micros / 1000 - beaten_ms < FORGOTTEN_MS + 10_000
    assert (await looker.message("permission_cleared"))["data"]["reason"] == "no_viewer"
