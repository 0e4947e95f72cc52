"""Attacks by content: other people's sessions, text that wants to be more than text, forged decisions.

Real gateways on a real server. Attacks by tokens are in `test_attacks_tokens.py`, those by HTTP itself in
`test_attacks_http.py`, those by PUBLISH on a channel also in `streams/test_forged.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sse_gateway.agent import AgentClient
from tests.support.gateway import BASE_PATH, GatewayProcess
from tests.support.leaks import noted
from tests.support.plain import plain_client
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream, get
from tests.support.tokens import token
from tests.support.wait import until
from tests.support.wire import exchange
from tests.web.site import PAGE_ORIGIN, Gateways, Site, bearer

ALL = "sse:read sse:respond sse:publish"
LOOSE = "\r\n\x00\x0b\x85\u2028"
"""Line ends of every school, and NUL."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def attacked() -> AsyncIterator[Site]:
    """Two gateways on one server."""
    with RedisProcess("valkey") as server:
        site = Site(server)
        try:
            await asyncio.gather(site.a.start(), site.b.start())
            yield site
        finally:
            site.a.close()
            site.b.close()


@pytest.fixture
def site(attacked: Site) -> Site:
    return attacked


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with plain_client(timeout=20) as client:
        yield client


@pytest.fixture
async def streams() -> AsyncIterator[list[SSEStream]]:
    """Streams to hang up at the end."""
    opened: list[SSEStream] = []
    yield opened
    for stream in opened:
        stream.close()
    for stream in opened:
        await stream.ended()


async def watch(
    streams: list[SSEStream], gateway: GatewayProcess, session_id: str, query: str = "", **options: Any
) -> SSEStream:
    """Open a stream and wait until it is live."""
    options.setdefault("token", token(session_id=session_id))
    stream = await SSEStream.open(gateway.events(session_id, query), **options)
    streams.append(stream)
    await stream.ready()
    return stream


async def ticket(http: httpx.AsyncClient, gateway: GatewayProcess, session_id: str, **claims: Any) -> str:
    """Ask for a ticket."""
    answer = await http.post(f"{gateway.base}/ticket/{session_id}", headers=bearer(session_id, **claims))
    assert answer.status_code == 200, answer.text
    return noted(str(answer.json()["data"]["ticket"]))


def code(answer: SSEStream) -> tuple[int, str]:
    """Return a refused stream's status and code."""
    return answer.status, str(json.loads(answer.body)["code"])


# Other people's sessions

ELSEWHERE = [
    "{mine}/../{theirs}",
    "{mine}/..%2F{theirs}",
    "{mine}%2F..%2F{theirs}",
    "{mine}%252F..%252F{theirs}",
    "%2e%2e%2fevents%2f{theirs}",
    "..%5C{theirs}",
    "{mine}/%2e%2e/{theirs}",
    "./{theirs}",
    "%2e/{theirs}",
    "//{theirs}",
    "{mine};{theirs}",
    "{mine}%3B{theirs}",
    "{mine}%3F{theirs}",
    "{mine}%23{theirs}",
    "{mine}%00{theirs}",
    "{mine}%0A{theirs}",
    "{mine}%0D%0A{theirs}",
    "{mine},{theirs}",
    "{mine}%20{theirs}",
    "{mine}%7D:meta",
    "{mine}%7D%7B{theirs}",
    "*",
    "%2A",
    "s-*",
    "s-%3F",
    "%5Bs%5D*",
    "%C0%AE%C0%AE%C0%AF{theirs}",
    "%EF%BC%8E%EF%BC%8E/{theirs}",
    "{theirs}%E2%80%8B",
    "{theirs}?session_id={mine}",
    "{theirs}",
]


@pytest.mark.parametrize("what", ["events", "health", "permissions"])
async def test_attack_path_into_another_session(site: Site, session_id: str, what: str) -> None:
    """Traversal, encodings, NUL, wildcards: none leads from one's own session to another."""
    mine, theirs = session_id, f"{session_id}-victim"
    site.publish(theirs, "note", {"secret": "of the victim"})
    made = token(session_id=mine, scope=ALL)

    async def attack(form: str) -> None:
        path = f"{BASE_PATH}/{what}/{form.format(mine=mine, theirs=theirs)}"
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made}\r\n\r\n"
        answer = await exchange(site.a.port, request)
        assert len(answer.statuses) == 1, (form, answer)
        assert answer.statuses[0] in (400, 403, 404), (form, answer)
        assert b"of the victim" not in answer.received

    await asyncio.gather(*map(attack, ELSEWHERE))


async def test_attack_encoded_name_of_ones_own_session(
    site: Site, streams: list[SSEStream], session_id: str
) -> None:
    """One session has many spellings in an address and is one session: nobody counts or sees two."""
    spelled = "".join(f"%{ord(character):02x}" for character in session_id)
    stream = await watch(streams, site.a, spelled, token=token(session_id=session_id))
    site.publish(session_id, "note")
    assert (await stream.message("note"))["session_id"] == session_id


REACH = {
    "u1*": ("u1", "u10", "u1:a", "u1-a"),
    "u1:*": ("u1", "u10:a", "u1-a", "u1", "u2:a"),
    "*u1": ("u1", "au1", "x:u1"),
    "**": ("u1", "x"),
    "u1:**": ("u1:a", "u1:"),
    "?1:*": ("u1:a",),
    "[u]1:*": ("u1:a",),
    "u1:.*": ("u1:a", "u1:b.c"),
    "u1:\n*": ("u1:a",),
    "": ("u1",),
    "*:*": ("u1:a",),
    "u1:*:x": ("u1:a:x",),
}


@pytest.mark.parametrize("pattern", REACH)
async def test_attack_wildcard_that_reaches_further(site: Site, pattern: str) -> None:
    """A pattern reaches what begins with it, behind a separator; anything else with a star is none."""
    for session in REACH[pattern]:
        for made in (token(sessions=[pattern]), token(session_id=pattern)):
            answer = await get(site.a.events(session), token=made)
            assert code(answer) == (403, "forbidden_session"), session


async def test_attack_cursor_of_another_session(
    site: Site, streams: list[SSEStream], session_id: str
) -> None:
    """A cursor proves nothing: with another session's one gets a reset and one's own session."""
    theirs = f"{session_id}-victim"
    cursors = [site.publish(theirs, "note", {"secret": n}) for n in range(3)]
    site.publish(session_id, "tool_result", {"mine": True})
    for cursor in cursors:
        stream = await watch(streams, site.a, session_id, last_event_id=cursor)
        assert stream.named("stream_reset")[0]["reason"] == "epoch"
        assert [message["data"] for message in stream.messages] == [{"mine": True}]
    refused = await get(
        site.a.events(theirs, f"last_event_id={cursors[0]}"), token=token(session_id=session_id)
    )
    assert code(refused) == (403, "forbidden_session")


@pytest.mark.parametrize(
    "path",
    ["permission-response", "publish", "ticket", "permissions/{}/r1/claim", "permissions/{}/r1/cancel"],
)
async def test_attack_post_without_the_scope_or_the_session(
    site: Site, http: httpx.AsyncClient, session_id: str, path: str
) -> None:
    """Each POST wants its own scope and its own session, and a refused one changes nothing."""
    scopes = {"permission-response": "sse:respond", "ticket": "sse:read"}
    needed = scopes.get(path, "sse:publish")
    asked = site.ask(session_id, request_id="r1")
    url = f"{site.a.base}/{path if '{}' in path else path + '/{}'}".format(session_id)
    body = {"approved": True, "request_id": "r1", "type": "note", "data": {}, "worker_id": "w"}
    without = bearer(session_id, scope=ALL.replace(needed, ""))
    elsewhere = {"Authorization": f"Bearer {token(session_id='another', scope=ALL)}"}
    for headers, refusal in (
        (without, "missing_scope"),
        (elsewhere, "forbidden_session"),
        ({}, "token_missing"),
    ):
        answer = await http.post(url, headers=headers, json=body)
        assert answer.status_code == (401 if refusal == "token_missing" else 403)
        assert answer.json()["code"] == refusal
    standing = json.loads(site.call("sse_decision", session_id, "r1"))
    assert (standing["status"], standing["id"]) == ("pending", asked["id"])


async def test_attack_token_where_no_token_belongs(
    site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """Cookies, other schemes, the body and the query of a POST are no places for a token."""
    made = token(session_id=session_id, scope=ALL)
    url = f"{site.a.base}/publish/{session_id}"
    event = {"type": "note", "data": {}, "token": made, "access_token": made}
    for headers in (
        {"Cookie": f"token={made}; Authorization=Bearer {made}"},
        {"Authorization": f"Basic {made}"},
        {"Proxy-Authorization": f"Bearer {made}"},
        {"X-Authorization": f"Bearer {made}"},
        {"Authorization": made},
    ):
        answer = await http.post(f"{url}?token={made}&ticket={made}", headers=headers, json=event)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")


async def test_attack_two_tokens_at_once(site: Site, session_id: str) -> None:
    """With two in one place a proxy may have judged the one and the gateway the other: neither counts.

    Beside a header the query counts for nothing, so that a good token there does not help a bad one.
    """
    good, other = token(session_id=session_id), token(session_id="other")
    for first, second in ((good, other), (other, good), (good, good)):
        head = f"GET {BASE_PATH}/health/{session_id} HTTP/1.1\r\nHost: x\r\n"
        both = f"{head}Authorization: Bearer {first}\r\nAuthorization: Bearer {second}\r\n\r\n"
        assert (await exchange(site.a.port, both)).statuses[0] in (400, 401)
        answer = await get(site.a.events(session_id, f"token={first}&token={second}"))
        assert code(answer) == (401, "token_invalid")


# Tickets


async def test_attack_ticket_used_twice(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str
) -> None:
    """A ticket opens one stream, at whichever gateway, and no other."""
    made = await ticket(http, site.a, session_id)
    await watch(streams, site.b, session_id, f"ticket={made}", token=None)
    for gateway in (site.a, site.b):
        assert code(await get(gateway.events(session_id, f"ticket={made}"))) == (401, "ticket_spent")


async def test_attack_race_of_many_with_one_ticket(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str
) -> None:
    """Of twenty who come with one ticket at once, over two gateways, one gets through."""
    made = await ticket(http, site.a, session_id)
    urls = [gateway.events(session_id, f"ticket={made}") for gateway in (site.a, site.b)] * 10
    answers = await asyncio.gather(*(SSEStream.open(url) for url in urls))
    streams += answers
    assert sorted(answer.status for answer in answers) == [200] + [401] * 19
    assert {code(answer)[1] for answer in answers if answer.status == 401} == {"ticket_spent"}


async def test_attack_ticket_of_another_session(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str
) -> None:
    """A ticket is for the session it was asked for, even if its token reaches more; trying spends nothing."""
    made = await ticket(http, site.a, session_id, sessions=["*"])
    for other in (f"{session_id}-2", session_id[:-1]):
        assert code(await get(site.a.events(other, f"ticket={made}"))) == (401, "ticket_spent")
    await watch(streams, site.a, session_id, f"ticket={made}", token=None)


async def test_attack_ticket_that_outgrows_its_token(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str
) -> None:
    """A ticket has the rights and the end of the token that asked for it, and is no token itself."""
    made = await ticket(http, site.a, session_id, scope="sse:read", exp=int(time.time()) + 4)
    stream = await watch(streams, site.a, session_id, f"ticket={made}", token=None)
    assert site.ask(session_id)["viewers"] == 0
    assert (await stream.event("closing", seconds=12))["reason"] == "token_expired"
    second = await ticket(http, site.a, session_id)
    for path in ("ticket", "publish", "permission-response"):
        for headers in ({"Authorization": f"Bearer {second}"}, {"Authorization": f"Ticket {second}"}):
            url = f"{site.a.base}/{path}/{session_id}?ticket={second}"
            assert (await http.post(url, headers=headers, json={"approved": True})).status_code == 401
    without = bearer(session_id, scope="sse:publish")
    assert (await http.post(f"{site.a.base}/ticket/{session_id}", headers=without)).status_code == 403


async def test_attack_ticket_kept_until_its_token_is_over(
    site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """A ticket that is used once its token has expired, leeway and all, opens nothing, not for a second."""
    over = int(time.time()) + 3
    made = await ticket(http, site.a, session_id, exp=over - 30)
    await until(lambda: time.time() >= over, "the end of the leeway")
    for gateway in (site.a, site.b):
        answer = await get(gateway.events(session_id, f"ticket={made}"))
        assert code(answer) == (401, "token_expired")


async def test_attack_ticket_made_up_or_read_from_redis(
    site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """Redis holds a digest for thirty seconds, and neither it nor anything else made up opens a stream."""
    made = await ticket(http, site.a, session_id)
    client = site.server.client
    (key,) = [key for key in client.scan_iter("sse:ticket:*") if session_id in client.get(key)]
    assert 0 < client.ttl(key) <= 30
    assert made not in key
    assert made not in client.get(key)
    for tried in (
        key,
        key.rpartition(":")[2],
        "*",
        "a" * 5000,
        "%00",
        "../x",
        made[:-1],
        made + "A",
        made.swapcase(),
    ):
        answer = await get(site.a.events(session_id, f"ticket={quote(tried, safe='%')}"))
        assert code(answer) == (401, "ticket_spent"), tried
    client.delete(key)
    assert code(await get(site.a.events(session_id, f"ticket={made}"))) == (401, "ticket_spent")


# Text that wants to be more


@pytest.mark.parametrize("way", ["http", "script", "plain"])
async def test_attack_line_ends_in_an_event(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str, way: str
) -> None:
    """SSE injection: whatever stands in an event is one event's data for an independent parser."""
    evil = f"x{LOOSE}data: y\nid: 6666666666-6\nevent: closing\nretry: 1\n\n: z"
    event = {"type": "note", "data": {"text": evil, evil: [evil]}}
    raw = json.dumps(event, ensure_ascii=False)
    # As JSON has it, with escapes; and with raw line ends between its tokens, and inside its strings.
    forms = [
        json.dumps(event),
        json.dumps(event, indent="\n \r\n id: 6666666666-6\n\n\t".replace("id: 6666666666-6", "")),
        raw.replace("\\n", "\n").replace("\\r", "\r"),
    ]
    stream = await watch(streams, site.a, session_id)
    sent = 0
    for form in forms:
        if way == "http":
            headers = bearer(session_id, scope="sse:publish") | {"Content-Type": "application/json"}
            url = f"{site.a.base}/publish/{session_id}"
            sent += (await http.post(url, headers=headers, content=form.encode())).status_code == 200
        elif way == "script":
            site.call("sse_publish", session_id, form)
            sent += 1
        else:
            site.say(session_id, form)
            sent += 1
    site.publish(session_id, "last")
    await stream.message("last")
    assert sent >= 2
    assert [message["type"] for message in stream.messages] == ["note"] * sent + ["last"]
    assert stream.messages[0]["data"]["text"] == evil
    assert {event.type for event in stream.events} == {"message", "ready"}
    assert stream.parser.retry != 1
    assert stream.parser.last_event_id.endswith("-1" if way == "plain" else f"-{sent + 1}")
    assert not stream.parser.complaints


INJECTED = f"x{LOOSE}data: y\nid: 6666666666-6\nevent: closing\nretry: 1\n\n: z"
UNTAKEN: dict[str, dict[str, Any]] = {
    "type": {"type": INJECTED, "data": {}},
    "session_id": {"type": "note", "session_id": INJECTED, "data": {}},
    "id": {"type": "note", "id": INJECTED, "data": {}},
    "request_id": {"type": "permission_request", "data": {"tool_name": "bash", "request_id": INJECTED}},
    "option id": {
        "type": "permission_request",
        "data": {
            "tool_name": "bash",
            "request_id": "r",
            "options": [{"id": INJECTED, "label": "x", "kind": "allow_once"}],
        },
    },
    "option kind": {
        "type": "permission_request",
        "data": {
            "tool_name": "bash",
            "request_id": "r",
            "options": [{"id": "x", "label": "x", "kind": INJECTED}],
        },
    },
}


@pytest.mark.parametrize("field", UNTAKEN)
async def test_attack_line_ends_where_a_name_belongs(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str, field: str
) -> None:
    """SSE injection: what becomes a name is refused with line ends in it, whichever way it comes."""
    event = json.dumps(UNTAKEN[field])
    stream = await watch(streams, site.b, session_id)
    headers = bearer(session_id, scope=ALL) | {"Content-Type": "application/json"}
    answer = await http.post(f"{site.b.base}/publish/{session_id}", headers=headers, content=event)
    assert answer.status_code == 400, answer.text
    assert "\n" not in answer.text
    with pytest.raises(Exception, match="SSE_"):
        site.call("sse_publish", session_id, event)
    site.say(session_id, event)
    site.publish(session_id, "last")
    await stream.message("last")
    assert {event.type for event in stream.events} == {"ready", "message"}
    assert [message["type"] for message in stream.messages] == ["last"]
    assert not stream.parser.complaints


@pytest.mark.parametrize("transport", ["aiohttp", "handover"])
async def test_attack_line_ends_in_every_text(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str, transport: str
) -> None:
    """SSE injection: times, members, and the texts of requests and answers reach the page as they are.

    Live, in a replay, and as a request that is settled.
    """
    gateway = site.a if transport == "aiohttp" else site.b
    stream = await watch(streams, gateway, session_id)
    site.publish(session_id, "note", INJECTED, timestamp=INJECTED, **{INJECTED: INJECTED})
    texts = ("tool_name", "title", "description", "tool_call_id")
    label = {"label": INJECTED}
    for request_id in ("answered", "withdrawn"):
        options = [{"id": "no", "kind": "reject_once"} | label, {"id": "yes", "kind": "allow_once"} | label]
        request = dict.fromkeys(texts, INJECTED) | {"request_id": request_id, "options": options}
        site.ask(session_id, parameters={INJECTED: INJECTED}, **request)
    body = {"approved": False, "request_id": "answered", "option_id": "no"}
    answer = await http.post(
        f"{gateway.base}/permission-response/{session_id}",
        headers=bearer(session_id),
        json=body | {"reason": INJECTED, "client_id": INJECTED},
    )
    assert answer.status_code == 200, answer.text
    site.call("sse_cancel", session_id, "withdrawn", INJECTED)
    last = site.publish(session_id, "last")
    await stream.message("last")
    again = await watch(streams, gateway, session_id, "replay=all")
    for seen, asked in ((stream, "message"), (again, "settled_request")):
        # A heartbeat may come at any moment.
        told = [event for event in seen.events if event.type != "ready"]
        events = [event for event in told if event.json["type"] != "heartbeat"]
        assert [event.type for event in events] == ["message", asked, asked, "message", "message", "message"]
        note, *requests, answered, withdrawn, _ = [event.json for event in events]
        assert (note["data"], note["timestamp"], note[INJECTED]) == (INJECTED,) * 3
        for request in requests:
            assert {name: request["data"][name] for name in texts} == dict.fromkeys(texts, INJECTED)
            assert [option["label"] for option in request["data"]["options"]] == [INJECTED] * 2
            assert request["data"]["parameters"] == {INJECTED: INJECTED}
        assert (answered["data"]["reason"], answered["data"]["client_id"]) == (INJECTED,) * 2
        assert withdrawn["data"]["reason"] == INJECTED
        assert seen.parser.last_event_id == last
        assert seen.parser.retry != 1
        assert not seen.parser.complaints


async def test_attack_line_ends_in_what_a_client_sends(
    site: Site, streams: list[SSEStream], session_id: str
) -> None:
    """A cursor or a client's name with line ends, which the gateway tells back or keeps, injects nothing."""
    evil = quote(f"x{LOOSE}\n\nevent: closing\ndata: {{}}\n\n")
    stream = await watch(streams, site.a, session_id, f"last_event_id={evil}")
    assert [event.type for event in stream.events][:2] == ["stream_reset", "ready"]
    assert stream.named("stream_reset")[0]["requested"].startswith("x\r\n")
    assert not stream.named("closing")
    for query in (f"client_id={evil}", f"replay={evil}"):
        assert code(await get(site.a.events(session_id, query), token=token(session_id=session_id))) == (
            400,
            "bad_parameter",
        )


HEADER_FIELDS = ["X-Request-ID", "Origin", "Last-Event-ID", "Idempotency-Key", "X-Forwarded-For", "Referer"]


@pytest.mark.parametrize("field", HEADER_FIELDS)
async def test_attack_line_ends_in_a_header(site: Site, session_id: str, field: str) -> None:
    """Header injection: what a request says never becomes a header of the answer, nor a second answer."""
    made = token(session_id=session_id)
    evils = (
        "x\rX-Evil: 1",
        "x\nX-Evil: 1",
        "x\0X-Evil: 1",
        "x%0d%0aX-Evil: 1",
        "x\\r\\nX-Evil: 1",
        "x\u010d\u010aX-Evil: 1".encode().decode("latin-1"),
        "x\x85X-Evil: 1",
        "x" * 65,
        '"><script>',
    )

    async def attack(evil: str) -> None:
        head = f"GET {BASE_PATH}/health/{session_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made}\r\n"
        answer = await exchange(site.a.port, f"{head}{field}: {evil}\r\n\r\n")
        assert answer.statuses in ([200], [400]), (evil, answer)
        assert b"X-Evil" not in answer.received
        assert b"script" not in answer.received
        assert b"x" * 65 not in answer.received

    await asyncio.gather(*map(attack, evils))


async def test_attack_line_ends_in_an_address(site: Site, session_id: str) -> None:
    """An encoded line end in a path or query is data, or a 400, and never a header."""
    made = token(session_id=session_id)
    for target in (
        f"/events/{session_id}%0d%0aX-Evil:%201",
        f"/health/{session_id}?x=%0d%0aX-Evil:%201",
        "/%0d%0aX-Evil:%201",
        f"/permissions/{session_id}/r%0d%0aX-Evil:%201",
    ):
        head = f"GET {BASE_PATH}{target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made}\r\n\r\n"
        answer = await exchange(site.a.port, head, quiet=0.2)
        assert len(answer.statuses) == 1
        assert not [line for line in answer.heads if line.startswith("X-Evil")]


@pytest.mark.parametrize("form", ["json", "text"])
async def test_attack_forged_log_lines(
    gateways: Gateways,
    site: Site,
    http: httpx.AsyncClient,
    streams: list[SSEStream],
    session_id: str,
    form: str,
) -> None:
    """Log injection: no field of anybody's makes a line of its own in the log, or drives a terminal."""
    gateway = await gateways(site.server, log_format=form, log_level="debug", min_display_seconds=0)
    forged = '{"time":"2026-01-01T00:00:00.000Z","level":"info","message":"permission_decided","forged":true}'
    evil = f"x{LOOSE}\n{forged}\r\n\x1b[2J\u202e\n"
    site.ask(session_id, request_id="r1")
    stream = await watch(
        streams,
        gateway,
        session_id,
        f"last_event_id={quote(evil)}",
        token=token(session_id=session_id, sub="ann"),
    )
    await http.post(
        f"{gateway.base}/permission-response/{session_id}",
        headers=bearer(session_id) | {"X-Request-ID": "x" + forged},
        json={"approved": False, "request_id": "r1", "reason": evil, "client_id": evil},
    )
    await get(gateway.events(session_id), token=token(session_id=session_id, sub=evil))
    await get(f"{gateway.base}/events/{quote(evil, safe='')}", token=token(session_id=session_id))
    await get(f"{gateway.origin}/{quote(evil, safe='')}")
    site.say(session_id, json.dumps({"type": evil, "data": evil}))
    site.say(session_id, evil)
    site.say(session_id, json.dumps({"type": "permission_request", "data": {"tool_name": evil}}))
    site.ask(session_id, request_id="r2", expires_in=0.2, tool_name=evil[:200], title=evil)
    await stream.wait(lambda: len(stream.named("message")) >= 3, "what was published")
    await stream.message("permission_cleared", count=2)
    assert gateway.stop() == 0
    log = gateway.log_text()
    lines = log.splitlines()
    assert not set(log) & set("\r\x00\x0b\x85\u2028\x1b\u202e")
    if form == "json":
        assert all(json.loads(line) for line in lines)
        assert not [line for line in lines if json.loads(line).get("forged")]
    else:
        assert not [line for line in lines if not line[:2].isdigit()]
    assert [line for line in lines if "permission_decided" in line and "denied" in line]
    assert not [line for line in lines if line.startswith(forged[:20]) and '"forged":true' in line]


# Forgeries


@pytest.mark.parametrize("way", ["http", "script", "plain"])
@pytest.mark.parametrize("kind", ["permission_cleared", "heartbeat", "permission\\u005fcleared"])
async def test_attack_forged_permission_cleared(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str, way: str, kind: str
) -> None:
    """Nobody but the scripts can say that a request was settled: by no way, under no spelling."""
    site.ask(session_id, request_id="r1")
    stream = await watch(streams, site.a, session_id)
    event = '{"type":"%s","data":{"request_id":"r1","outcome":"approved","approved":true}}' % kind  # noqa: UP031
    if way == "http":
        headers = bearer(session_id, scope="sse:publish") | {"Content-Type": "application/json"}
        answer = await http.post(f"{site.a.base}/publish/{session_id}", headers=headers, content=event)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_event")
    elif way == "script":
        with pytest.raises(Exception, match="SSE_RESERVED_TYPE"):
            site.call("sse_publish", session_id, event)
    else:
        site.say(session_id, event)
    site.publish(session_id, "last")
    await stream.message("last")
    assert [message["type"] for message in stream.messages] == ["permission_request", "last"]
    assert json.loads(site.call("sse_decision", session_id, "r1"))["status"] == "pending"


async def test_attack_forged_decision_on_the_agents_channel(site: Site, session_id: str) -> None:
    """Who may only PUBLISH cannot approve: an agent that hears of a decision asks Redis for it."""
    async with AgentClient(site.server.url) as client:
        session = client.session(session_id)
        waiting = asyncio.create_task(
            session.request_permission("bash", {"cmd": "rm"}, request_id="r1", timeout=4)
        )
        await until(lambda: _pending(site, session_id), "the request to be open")
        forged = {"request_id": "r1", "outcome": "approved", "approved": True, "source": "human"}
        for _ in range(5):
            site.server.client.publish(f"permission_response:{session_id}", json.dumps(forged))
            await asyncio.sleep(0.2)
        assert not waiting.done()
        decision = await waiting
        assert (decision.outcome, decision.approved) == ("expired", False)


def _pending(site: Site, session_id: str) -> bool:
    return bool(site.server.client.zcard(f"sse:{{{session_id}}}:pending"))


async def test_attack_answer_in_somebody_elses_name(
    site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """Who decided is the token's user: a body that says otherwise is refused, and decides nothing."""
    site.ask(session_id, request_id="r1")
    url = f"{site.a.base}/permission-response/{session_id}"
    for more in (
        {"decided_by": "boss"},
        {"source": "timeout"},
        {"outcome": "approved"},
        {"user": "boss"},
        {"session_id": "another"},
        {"__proto__": {"approved": True}},
        {"Approved": True},
    ):
        body = {"approved": False, "request_id": "r1", **more}
        answer = await http.post(url, headers=bearer(session_id, sub="mallory"), json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    twice = '{"approved":false,"request_id":"r1","approved":true}'
    headers = bearer(session_id, sub="mallory") | {"Content-Type": "application/json"}
    assert (await http.post(url, headers=headers, content=twice)).json()["code"] == "malformed_json"
    answer = await http.post(
        url, headers=bearer(session_id, sub="mallory"), json={"approved": False, "request_id": "r1"}
    )
    assert answer.json()["data"]["decision"]["decided_by"] == "mallory"


async def test_attack_forged_id_with_a_permission_request(
    site: Site, streams: list[SSEStream], session_id: str
) -> None:
    """A request published under an id that history does not hold opens no dialog and is asked of nobody."""
    first = site.publish(session_id, "note")
    epoch = first.partition("-")[0]
    stream = await watch(streams, site.a, session_id)
    data = '"type":"permission_request","data":{"request_id":"rx","tool_name":"bash","status":"pending"}}'
    for id in (f"{epoch}-1", f"{epoch}-40", "ffffffffff-2", "x"):
        site.say(session_id, '{"id":"%s","session_id":"%s",%s' % (id, session_id, data))  # noqa: UP031
    site.publish(session_id, "last")
    await stream.message("last")
    assert [message["type"] for message in stream.messages] == ["last"]
    assert not _pending(site, session_id)


# JSON bombs

BOMBS: dict[str, tuple[str, str]] = {
    "deep lists": ('{"type":"note","data":' + "[" * 50_000 + "]" * 50_000 + "}", "malformed_json"),
    "deep objects": (
        '{"type":"note","data":' + '{"a":' * 40_000 + "1" + "}" * 40_000 + "}",
        "malformed_json",
    ),
    "deep and cut": ('{"type":"note","data":' + "[" * 200_000, "malformed_json"),
    "a number of 200,000 digits": ('{"type":"note","data":' + "9" * 200_000 + "}", "malformed_json"),
    "a large exponent": ('{"type":"note","data":1e999999999}', ""),
    "a negative exponent": ('{"type":"note","data":1e-999999999}', ""),
    "NaN": ('{"type":"note","data":NaN}', "malformed_json"),
    "Infinity": ('{"type":"note","data":-Infinity}', "malformed_json"),
    "a member a hundred thousand times": (
        '{"type":"note","data":{' + ",".join(['"a":1'] * 40_000) + "}}",
        "",
    ),
    "many members": ('{"type":"note","data":{' + ",".join(f'"{n}":1' for n in range(20_000)) + "}}", ""),
    "a request of many members": (
        '{"type":"permission_request",'
        + '"a":1,' * 40_000
        + '"é😀":1,"data":{"tool_name":"bash","timestamp":"now"}}',
        "",
    ),
    "not UTF-8": ('{"type":"note","data":"\udc80"}', "malformed_json"),
    "half a surrogate": ('{"type":"note","data":"\\ud800"}', ""),
    "a byte order mark": ('\ufeff{"type":"note","data":{}}', "malformed_json"),
    "NUL behind the end": ('{"type":"note","data":{}}\0{}', "malformed_json"),
    "two values": ('{"type":"note","data":{}}{}', "malformed_json"),
    "too large": ('{"type":"note","data":"' + "a" * 300_000 + '"}', "payload_too_large"),
    "much too large": ('{"type":"note","data":"' + "a" * 3_000_000 + '"}', "payload_too_large"),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_attack_json_bomb(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str, bomb: str
) -> None:
    """By every way in, JSON made to exhaust a parser is refused or is one event, and nobody is held up."""
    text, refusal = BOMBS[bomb]
    content = text.encode(errors="surrogateescape")
    stream = await watch(streams, site.a, session_id)
    headers = bearer(session_id, scope=ALL) | {"Content-Type": "application/json"}
    began_at = time.monotonic()
    published = await http.post(f"{site.a.base}/publish/{session_id}", headers=headers, content=content)
    assert published.status_code < 500, published.text
    if refusal:
        assert published.json()["code"] == refusal
    one = f"permissions/{session_id}/r1"
    for path in (f"permission-response/{session_id}", f"{one}/claim", f"{one}/cancel"):
        answer = await http.post(f"{site.a.base}/{path}", headers=headers, content=content)
        assert 400 <= answer.status_code < 500, answer.text
    site.say(session_id, content)
    site.publish(session_id, "last")
    await stream.message("last")
    assert time.monotonic() - began_at < 8
    # What did arrive, a browser can read.
    for message in stream.messages:
        json.dumps(message, allow_nan=True)
    assert (await http.get(f"{site.a.origin}/healthz")).status_code == 200
    assert not [line for line in site.a.logs() if line["level"] == "error"]


@pytest.mark.parametrize("way", ["cursor", "answer"])
async def test_attack_text_that_cannot_be_sent_to_redis(
    site: Site, http: httpx.AsyncClient, streams: list[SSEStream], session_id: str, way: str
) -> None:
    """After text without a UTF-8 form, every session still gets its own events and no other's."""
    others = [f"{session_id}-{number}" for number in range(5)]
    for other in others:
        site.publish(other, "note", {"of": other})
        site.ask(other, request_id="r", title=other)
    for gateway in (site.a, site.b):
        if way == "cursor":
            stream = await watch(streams, gateway, session_id, last_event_id="\udcff")
            assert stream.named("stream_reset")[0]["reason"] == "malformed"
        else:
            answer = await http.post(
                f"{gateway.base}/permission-response/{session_id}",
                headers=bearer(session_id) | {"Content-Type": "application/json"},
                content=b'{"approved":true,"option_id":"\\ud800"}',
            )
            assert answer.status_code == 400, answer.text

        async def look(other: str, gateway: GatewayProcess = gateway) -> None:
            url = gateway.events(other, "replay=all")
            async with await SSEStream.open(url, token=token(session_id=other)) as stream:
                await stream.ready()
                assert [message["session_id"] for message in stream.messages] == [other] * 2
            shown = await http.get(f"{gateway.base}/permissions/{other}", headers=bearer(other))
            assert [asked["title"] for asked in shown.json()["data"]["pending"]] == [other]

        await asyncio.gather(*map(look, others))


@pytest.mark.parametrize("way", ["script", "next id", "answers' channel"])
async def test_attack_message_that_nobody_can_read(
    site: Site, streams: list[SSEStream], session_id: str, way: str
) -> None:
    """Poison that only a Redis user can place ends neither the push connection nor anybody else's stream."""
    other = f"{session_id}-2"
    stream, bystander = await watch(streams, site.a, session_id), await watch(streams, site.a, other)
    before = (await site.a.metrics())["sse_gateway_push_reconnects_total"]
    epoch = site.publish(session_id, "note").partition("-")[0]
    await stream.message("note")
    request = b'{"request_id":"r1","tool_name":"bash","parameters":{"n":"\xff\xfe"}}'
    head = f'{{"id":"{epoch}-2","session_id":"{session_id}","type":'.encode()
    if way == "script":
        site.server.client.execute_command("FCALL", "sse_ask", 1, session_id, request)
        await stream.message("permission_request")
    elif way == "next id":
        for forged in (
            b'"permission_request","data":' + request + b"}",
            b'"permission_cleared","data":{"outcome":"won","source":"me","n":' + b"9" * 5000 + b"}}",
            b'"permission_request","data":{"request_id":"x","expires_at":"9999-12-31T23:59:59Z"}}',
            b'"permission_request',
            b'5,"permission_x":' + b"[" * 100_000,
        ):
            site.say(session_id, head + forged)
            site.publish(session_id, "note")
            await asyncio.sleep(0.1)
    else:
        site.say(session_id, b'{"control":"session_ended","session_id":"\xff"')
        site.server.client.publish(f"permission_response:{session_id}", b"\xff")
    top = site.publish(other, "note")
    await bystander.wait(lambda: bystander.ids == [top], "the bystander's event")
    top = site.publish(session_id, "last")
    await stream.wait(
        lambda: top in [event.last_event_id for event in stream.events], "what came after", seconds=15
    )
    metrics = await site.a.metrics()
    assert metrics["sse_gateway_push_reconnects_total"] == before
    assert not [series for series in metrics if "won" in series]
    async with plain_client() as http:
        url = f"{site.a.base}/permissions/{session_id}"
        overview = await http.get(url, headers=bearer(session_id))
        assert overview.status_code == 200
        if way == "script":
            assert overview.json()["data"]["pending"][0]["request_id"] == "r1"
            url = f"{site.a.base}/permission-response/{session_id}"
            body = {"approved": False, "request_id": "r1"}
            assert (await http.post(url, headers=bearer(session_id), json=body)).status_code == 200


async def test_attack_number_that_is_shown_as_another(
    site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """What is listed for approval has the agent's own characters: no number is read and written again."""
    parameters = '{"amount":100000000000000000001,"rate":0.10000000000000000001,"huge":1e999,"exact":1.0}'
    site.call("sse_ask", session_id, '{"request_id":"r1","tool_name":"pay","parameters":' + parameters + "}")
    answer = await http.get(f"{site.a.base}/permissions/{session_id}", headers=bearer(session_id))
    assert f'"parameters":{parameters}' in answer.text


# Names in Redis

WILD = [
    "*",
    "?",
    "[a-z]",
    "a}b{c",
    "{x}",
    "a b",
    "a\nFLUSHALL\n",
    "a\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "a\0b",
    "a/b",
    "ü",
    "a'b",
]


async def test_attack_redis_names_by_a_session(site: Site, http: httpx.AsyncClient, session_id: str) -> None:
    """No session id, ticket, request id, worker or key of idempotency makes a key or a command of its own."""
    client = site.server.client
    witness = f"{session_id}-witness"
    site.publish(witness, "note")
    known = set(client.keys("*"))
    headers = bearer(session_id, scope=ALL, sessions=["*"]) | {"Content-Type": "application/json"}
    event = '{"type":"note","data":{}}'
    for wild in WILD:
        name = quote(wild, safe="")
        for path in (f"health/{name}", f"permissions/{name}", f"events/{name}"):
            answer = await http.get(f"{site.a.base}/{path}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) in (
                (400, "bad_session_id"),
                (404, "not_found"),
            ), path
        for path in (f"publish/{name}", f"ticket/{name}", f"permission-response/{name}"):
            answer = await http.post(f"{site.a.base}/{path}", headers=headers, content=event)
            assert answer.status_code in (400, 404), path
        for path in (f"permissions/{session_id}/{name}", f"permissions/{session_id}/{name}/claim"):
            method = "POST" if path.endswith("claim") else "GET"
            answer = await http.request(
                method, f"{site.a.base}/{path}", headers=headers, content='{"worker_id":"w"}'
            )
            assert answer.status_code in (400, 404), path
        body = json.dumps({"approved": True, "request_id": wild})
        answer = await http.post(
            f"{site.a.base}/permission-response/{session_id}", headers=headers, content=body
        )
        assert answer.status_code in (400, 404)
        with pytest.raises(Exception, match="SSE_BAD_SESSION"):
            client.execute_command("FCALL", "sse_publish", 1, wild, event)
    for key in ("*", "a}b{c", "x:y"):
        answer = await http.post(
            f"{site.a.base}/publish/{session_id}", headers=headers | {"Idempotency-Key": key}, content=event
        )
        assert answer.status_code == 200
    # The presence of earlier tests' streams may still come and go.
    new = {name for name in set(client.keys("*")) - known if not name.endswith(":streams")}
    ours = (f"sse:{{{session_id}}}:", f"permission_responses:{{{session_id}}}")
    assert all(name.startswith(ours) for name in new), new
    assert f"sse:{{{witness}}}:meta" in client.keys("*")


# Origins

FOREIGN = [
    "https://evil.example.org",
    f"{PAGE_ORIGIN}.evil.example.org",
    f"{PAGE_ORIGIN}:8443",
    PAGE_ORIGIN.replace("https", "http"),
    PAGE_ORIGIN.upper(),
    f"{PAGE_ORIGIN}/",
    f"https://evil.example.org#{PAGE_ORIGIN}",
    "null",
    "*",
    "",
    f"{PAGE_ORIGIN}, https://evil.example.org",
]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_attack_page_of_another_origin(
    site: Site, http: httpx.AsyncClient, session_id: str, origin: str
) -> None:
    """A page of an origin that is not exactly a named one may neither read an answer nor send a real POST."""
    made = bearer(session_id, scope=ALL) | {"Origin": origin}
    url = f"{site.a.base}/permission-response/{session_id}"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answers = [
        await http.options(url, headers=made | preflight),
        await http.get(f"{site.a.base}/health/{session_id}", headers=made),
        await http.post(url, headers=made | {"Content-Type": "text/plain"}, content='{"approved":true}'),
    ]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answers[2].status_code == 415
    stream = await SSEStream.open(
        site.a.events(session_id), token=token(session_id=session_id), headers={"Origin": origin}
    )
    stream.close()
    assert not [name for name in stream.headers if name.startswith("access-control-")]


async def test_attack_credentials_across_origins(
    gateways: Gateways, site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """Even where every origin is allowed, nothing allows a browser to add credentials by itself."""
    gateway = await gateways(site.server, cors_origins=["*"])
    headers = bearer(session_id) | {"Origin": "https://evil.example.org"}
    answer = await http.get(f"{gateway.base}/health/{session_id}", headers=headers)
    assert answer.headers["access-control-allow-origin"] == "https://evil.example.org"
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]
    assert "set-cookie" not in answer.headers


async def test_attack_by_asking_for_too_much(site: Site, http: httpx.AsyncClient, session_id: str) -> None:
    """A session has at most a hundred open requests; the next is a 429 and is counted."""
    headers = bearer(session_id, scope=ALL)
    for n in range(100):
        site.ask(session_id, request_id=f"r{n}")
    event = {"type": "permission_request", "data": {"request_id": "one-more", "tool_name": "bash"}}
    answer = await http.post(f"{site.a.base}/publish/{session_id}", headers=headers, json=event)
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_pending")
    assert int(answer.headers["retry-after"]) > 0
    metrics = await site.a.metrics()
    assert metrics['sse_gateway_requests_refused_total{code="too_many_pending"}'] >= 1
    async with Redis(port=site.server.port) as client:
        with pytest.raises(Exception, match="SSE_TOO_MANY_PENDING"):
            await client.execute_command("FCALL", "sse_ask", 1, session_id, '{"tool_name":"bash"}')
