"""What people answer reaches the agent as they gave it, and what the agent asks reaches people too."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sse_gateway.agent import AgentClient
from tests.permissions.conftest import Desk
from tests.permissions.desk import Agent, Dial, Tab, answering, bearer
from tests.support.gateway import BASE_PATH
from tests.support.modes import scaled
from tests.support.stream import SSEStream
from tests.support.tokens import token

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=5)
OPTION_IDS = st.text("abcXYZ019._:-", min_size=1, max_size=20)
KINDS = ("allow_once", "allow_session", "allow_always", "reject_once", "reject_always")


def same(one: Any, other: Any) -> bool:
    """Compare JSON values strictly: 1, 1.0 and true are three things, and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@pytest.fixture
def people(desk: Desk) -> Iterator[http.client.HTTPConnection]:
    """A blocking connection to a gateway, since hypothesis does not wait."""
    connection = http.client.HTTPConnection("127.0.0.1", desk.b.port, timeout=30)
    yield connection
    connection.close()


Member = st.none() | TEXT
REQUESTS = st.fixed_dictionaries(
    {"parameters": OBJECTS},
    optional={"title": TEXT, "description": TEXT, "x-more": JSON},
)


@pytest.mark.scaled
@pytest.mark.timeout(600)
@settings(
    max_examples=scaled(30, 1500),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    request=REQUESTS,
    edit=st.none() | OBJECTS,
    reason=st.none() | TEXT,
    option=st.none() | st.tuples(OPTION_IDS, st.sampled_from(KINDS)),
    digest=st.none() | st.text("abc019:+/=._-", min_size=1, max_size=40),
    approved=st.booleans(),
    page=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_every_part_of_an_answer_reaches_the_agent_unchanged(  # noqa: PLR0917
    agent: Agent,
    people: http.client.HTTPConnection,
    session_id: str,
    request: dict[str, Any],
    edit: dict[str, Any] | None,
    reason: str | None,
    option: tuple[str, str] | None,
    digest: str | None,
    approved: bool,
    page: str | None,
) -> None:
    """Option, edit, reason and digest are in the decision, the stream and the history as they were given."""
    if option is not None:
        approved = option[1].startswith("allow")
    if not approved:
        edit = None
    asked = {**request, "tool_name": "bash", "editable": edit is not None}
    if option is not None:
        asked["options"] = [{"id": option[0], "label": "…", "kind": option[1]}]
    if digest is not None:
        asked["args_digest"] = digest
    request_id = agent.ask(session_id, **asked)["request_id"]
    body = {
        "approved": approved, "request_id": request_id, "reason": reason, "updated_input": edit,
        "option_id": option and option[0], "args_digest": digest, "client_id": page,
    }  # fmt: skip
    people.request(
        "POST",
        f"{BASE_PATH}/permission-response/{session_id}",
        json.dumps(body, ensure_ascii=bool(len(request_id) % 2)).encode(),
        {"Authorization": bearer("ann", session_id), "Content-Type": "application/json"},
    )
    response = people.getresponse()
    answered = json.loads(response.read())
    assert response.status == 200, answered
    expected = body | {
        "option_kind": option and option[1], "outcome": "approved" if approved else "denied",
        "decided_by": "ann", "source": "human", "decided_at": answered["data"]["decision"]["decided_at"],
    }  # fmt: skip
    assert same(agent.told(session_id)[-1], expected)
    assert same(agent.standing(session_id, request_id)["decision"], expected)
    assert same(answered["data"]["decision"], expected)
    asked_event, cleared = agent.events(session_id)[-2:]
    cleared["data"].pop("message")
    assert same(cleared["data"], expected)
    shown = {name: asked_event["data"][name] for name in asked}
    assert same(shown, asked)


async def test_the_largest_edit_that_fits_arrives_whole_and_a_larger_one_is_refused(
    desk: Desk, agent: Agent, dial: Dial, tab: Tab, session_id: str
) -> None:
    """An edit of nearly MAX_EVENT_BYTES reaches agent and tabs; a larger one is a 413 and decides nothing."""
    stream = await tab(desk.c, session_id)
    agent.ask(session_id, request_id="r", editable=True)
    line = await dial(desk.a)
    body: dict[str, Any] = {"approved": True, "request_id": "r", "updated_input": {"t": "é" * 131_072}}
    refused = await line.send(answering(session_id, json.dumps(body, ensure_ascii=False).encode()))
    assert (refused.status, refused.code) == (413, "payload_too_large")
    assert agent.pending(session_id) == ["r"]
    body["updated_input"] = {"t": "é" * 130_000}
    line = await dial(desk.a)
    assert (await line.send(answering(session_id, json.dumps(body, ensure_ascii=False).encode()))).won
    assert agent.told(session_id)[0]["updated_input"] == body["updated_input"]
    assert (await stream.message("permission_cleared"))["data"]["updated_input"] == body["updated_input"]


async def test_the_sdk_runs_what_the_human_made_of_it(
    desk: Desk, agents: Callable[..., AgentClient], dial: Dial, session_id: str
) -> None:
    """`decision.arguments()` is the edit, and the digest that people saw is the one the SDK made."""
    session = agents(desk.server).session(session_id, owner="ann")
    await session.tool_status("executing")
    asking = asyncio.create_task(
        session.request_permission(
            "bash",
            {"cmd": "rm -rf build", "n": [1, 2.5, None]},
            editable=True,
            options=[{"id": "s", "label": "Session", "kind": "allow_session"}],
            timeout=30,
        )
    )
    # The owner's token names no session.
    async with await SSEStream.open(desk.a.events(session_id), token=token(sub="ann")) as stream:
        asked = (await stream.message("permission_request"))["data"]
    edit: dict[str, Any] = {"cmd": "ls", "n": [1, 2.5, None, {"ü": []}]}
    line = await dial(desk.c)
    reply = await line.send(
        answering(
            session_id,
            {
                "approved": True,
                "request_id": asked["request_id"],
                "args_digest": asked["args_digest"],
                "updated_input": edit,
                "option_id": "s",
                "reason": "look only",
            },
            user="ann",
        )
    )
    assert reply.won
    decision = await asyncio.wait_for(asking, 10)
    assert same(decision.arguments({}), edit)
    assert (decision.option_id, decision.option_kind, decision.reason) == ("s", "allow_session", "look only")
    assert (decision.args_digest, decision.decided_by) == (asked["args_digest"], "ann")
