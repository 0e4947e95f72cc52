"""What /metrics tells: every name that the design promises, moved by what it counts, with bounded labels."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from sse_gateway import __version__
from sse_gateway.core.errors import STATUS
from sse_gateway.core.notices import CLOSE_REASONS
from tests.chaos.local import local_gateway
from tests.support.gateway import BASE_PATH
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.sse import EventParser
from tests.support.stream import SSEStream, get
from tests.support.tokens import authenticator, private_key, token
from tests.support.wait import until
from tests.support.wire import exchange
from tests.web.site import Gateways, Site, Tab, bearer

PREFIX = "sse_gateway_"
PROMISED: dict[str, tuple[str, tuple[str, ...]]] = {
    "streams": ("gauge", ()),
    "streams_opened": ("counter", ()),
    "streams_rejected": ("counter", ("reason",)),
    "streams_closed": ("counter", ("reason",)),
    "stream_duration_seconds": ("histogram", ()),
    "events_received": ("counter", ("kind",)),
    "frames_sent": ("counter", ()),
    "sent_bytes": ("counter", ()),
    "buffered_bytes": ("gauge", ()),
    "delivery_lag_seconds": ("histogram", ()),
    "catchups": ("counter", ("reason",)),
    "resets": ("counter", ("reason",)),
    "push_connected": ("gauge", ()),
    "push_reconnects": ("counter", ()),
    "push_last_message_timestamp_seconds": ("gauge", ()),
    "push_probe_failures": ("counter", ()),
    "subscriptions": ("gauge", ()),
    "redis_command_duration_seconds": ("histogram", ("command",)),
    "permission_requests": ("counter", ()),
    "permission_decisions": ("counter", ("outcome", "source")),
    "permission_decision_seconds": ("histogram", ()),
    "auth_failures": ("counter", ("code",)),
    "requests_refused": ("counter", ("code",)),
    "connections_cut": ("counter", ("reason",)),
    "build_info": ("gauge", ("version",)),
}
"""Name as Prometheus' parser has it (a counter's without `_total`) → its type and labels."""


async def families(origin: str) -> dict[str, Any]:
    """Scrape and parse, as Prometheus does."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{origin}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(found: Mapping[str, Any], name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels; of a histogram, how many were observed."""
    family = found[PREFIX + name]
    wanted = {"counter": "_total", "histogram": "_count"}.get(family.type, "")
    return sum(
        sample.value
        for sample in family.samples
        if sample.name == family.name + wanted and labels.items() <= sample.labels.items()
    )


async def test_every_promised_metric_is_there_and_no_other(site: Site, http: httpx.AsyncClient) -> None:
    """Names, types and labels are the contract; every one has a help text and can be parsed."""
    found = await families(site.a.origin)
    assert found.keys() == {PREFIX + name for name in PROMISED}
    for name, (kind, labels) in PROMISED.items():
        family = found[PREFIX + name]
        assert family.type == kind, name
        assert family.documentation, name
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(labels), sample
    (build,) = found["sse_gateway_build_info"].samples
    assert (build.labels, build.value) == ({"version": __version__}, 1)
    assert (await http.get(f"{site.a.origin}/metrics?x=y")).text.endswith("\n")


async def test_every_metric_moves_with_what_it_counts(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    tab: Tab,
    http: httpx.AsyncClient,
    session_id: str,
) -> None:
    """Opened, refused, reset, caught up, asked, answered, expired, cut: each shows, under the right label."""
    link = proxied(own_server)
    gateway = await gateways(link, heartbeat_seconds=1)
    before = await families(gateway.origin)
    rights = bearer(session_id, scope="sse:read sse:respond sse:publish")

    def call(function: str, *arguments: str) -> Any:
        return own_server.client.execute_command("FCALL", function, 1, session_id, *arguments)

    # Streams: open, refused, reset, behind, gone.
    stream = await tab(gateway, session_id)
    assert value(await families(gateway.origin), "streams") == 1
    await get(gateway.events(session_id), token="bad")
    await http.get(f"{gateway.base}/health/other", headers=rights)
    broken = await tab(gateway, session_id, last_event_id="nonsense")
    slow = await tab(gateway, session_id, receive_buffer=4096)
    slow.pause()
    # Events of all three kinds; of the durable ones enough for one to be asked how long it took.
    own_server.client.publish(f"sse_events:{session_id}", '{"type":"token","data":{}}')
    own_server.client.publish(f"sse_events:{session_id}", "nonsense")
    await stream.message("token")
    for _ in range(130):
        call("sse_publish", json.dumps({"type": "note", "data": {"text": "x" * 8000}}))

    async def is_behind() -> bool:
        return value(await families(gateway.origin), "buffered_bytes") > 10_000

    await until(is_behind, "unread bytes to be seen")
    slow.close()
    broken.close()
    # Requests: one answered, one that expires.
    for request_id, seconds in (("r1", 300), ("r2", 1)):
        call("sse_ask", json.dumps({"request_id": request_id, "tool_name": "bash", "expires_in": seconds}))
    await stream.message("permission_request", count=2)
    url = f"{gateway.base}/permission-response/{session_id}"
    answer = await http.post(url, headers=rights, json={"approved": True, "request_id": "r1"})
    assert answer.status_code == 200
    await stream.message("permission_cleared", count=2)
    # Conduct.
    made = token(session_id=session_id)
    path = gateway.events(session_id, f"token={made}").removeprefix(gateway.origin)
    begun = await exchange(gateway.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n", "x" * 5000, pause=0.3)
    assert begun.closed
    # The push connection, and what was published meanwhile.
    link.refuse()
    missed = call("sse_publish", '{"type":"note","data":{}}')
    await until(lambda: _value_is(gateway.origin, "push_connected", 0), "the loss to be noticed")
    link.accept()
    await stream.wait(lambda: missed in stream.ids, "what was missed", seconds=20)

    async def settled() -> bool:
        found = await families(gateway.origin)
        return value(found, "streams") == value(found, "push_connected") == 1

    await until(settled, "the closed streams to be counted, and the connection to be proven", seconds=20)
    assert (await http.get(f"{gateway.origin}/readyz")).status_code == 200
    after = await families(gateway.origin)

    def moved(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert moved("streams_opened") == 4
    assert moved("streams_rejected", reason="token_invalid") == 1
    assert moved("streams_closed") == 3
    assert moved("streams_closed", reason="client_gone") == 3
    assert moved("stream_duration_seconds") == 3
    # 130 notes, two requests, two ends of them; what was published during the outage came by another way.
    assert moved("events_received", kind="durable") == 134
    assert moved("events_received", kind="plain") == 1
    assert moved("events_received", kind="malformed") == 1
    assert moved("frames_sent") > 130
    assert moved("sent_bytes") > 130 * 8000
    assert moved("delivery_lag_seconds") >= 1

    async def asked_again() -> bool:
        call("sse_publish", '{"type":"note","data":{}}')
        return value(await families(gateway.origin), "delivery_lag_seconds") >= 4

    await until(asked_again, "more events to be asked how long they took", seconds=20)
    assert moved("catchups", reason="reconnect") == 1
    assert moved("resets", reason="malformed") == moved("resets") == 1
    assert moved("push_reconnects") >= 1
    assert value(after, "push_connected") == 1
    assert abs(value(after, "push_last_message_timestamp_seconds") - time.time()) < 30
    assert moved("subscriptions") == 1
    for command in ("sse_read", "sse_request", "sse_answer", "sse_beat", "PUBLISH", "PING"):
        assert moved("redis_command_duration_seconds", command=command) >= 1, command
    assert moved("permission_requests") == 2
    assert moved("permission_decisions", outcome="approved", source="human") == 1
    assert moved("permission_decisions", outcome="expired", source="timeout") == 1
    assert moved("permission_decision_seconds") == 1
    assert moved("auth_failures", code="token_invalid") == 1
    assert moved("auth_failures", code="forbidden_session") == 1
    assert moved("requests_refused", code="token_invalid") == 1
    assert moved("connections_cut", reason="stray_bytes") == 1
    check_labels(after, session_id)


async def _value_is(origin: str, name: str, expected: float) -> bool:
    return value(await families(origin), name) == expected


JSON = {"Content-Type": "application/json"}
NEEDS_ANOTHER_GATEWAY = {
    "request_id_required", "too_new", "internal_error", "keys_unavailable", "redis_unavailable",
}  # fmt: skip
"""Codes that depend on a setting or on a fault."""
MADE_ELSEWHERE = {"request_timeout", "owner_conflict", "not_permitted"}
"""The first is awaited by `test_attack_by_dawdling`. No call of HTTP names an owner, and what Redis does not
permit is told as `internal_error`: these two are the SDK's."""
ENDS = {*CLOSE_REASONS, "client_gone"}
VALUES: dict[str, set[str]] = {
    "streams_rejected": {*STATUS, "rate", "unavailable", "overloaded", "shutdown"},
    "streams_closed": ENDS,
    "events_received": {"durable", "plain", "malformed"},
    "resets": {"trimmed", "epoch", "rolled_back", "ahead", "malformed"},
    "auth_failures": {*STATUS},
    "requests_refused": {*STATUS},
    "connections_cut": {"too_many", "idle", "slow_head", "slow_body", "stray_bytes"},
}


def check_labels(found: Mapping[str, Any], session_id: str) -> None:
    """Check that no label holds a session, a user or anything else that callers choose."""
    for name, (_, labels) in PROMISED.items():
        for sample in found[PREFIX + name].samples:
            for label, text in sample.labels.items():
                assert session_id not in text
                assert "user-1" not in text
                if label in labels and name in VALUES:
                    assert text in VALUES[name], (name, text)


async def test_callers_cannot_make_labels(
    site: Site, tab: Tab, http: httpx.AsyncClient, session_id: str
) -> None:
    """However callers name things, the number of series does not grow with them."""

    async def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (name, tuple(sorted((label, text) for label, text in sample.labels.items() if label != "le")))
            for name, family in (await families(site.a.origin)).items()
            for sample in family.samples
        }

    async def round_trip(number: int) -> None:
        name = f"{session_id}-{number}"
        stream = await tab(site.a, name, f"client_id=c{number}", claims={"sub": f"user-{number}"})
        site.publish(name, f"kind-{number}")
        site.say(name, json.dumps({"type": f"plain-{number}"}))
        await http.request(f"M{number}", f"{site.a.base}/nothing-{number}")
        await http.get(
            f"{site.a.base}/permissions/{name}/r{number}", headers=bearer(name, scope="sse:publish")
        )
        await get(site.a.events(name, f"replay=r{number}"), token=token(session_id=name))
        stream.close()
        await stream.ended()

    async def beaten(names: range) -> bool:
        """Tell whether Redis was told that these streams are gone: the last thing a stream causes."""
        keys = [f"sse:{{{session_id}-{number}}}:streams" for number in names]
        return not any(site.server.client.exists(key) for key in keys)

    await round_trip(0)
    await until(lambda: beaten(range(1)), "the first stream to be forgotten")
    before = await series()
    for number in range(1, 8):
        await round_trip(number)
    await until(lambda: beaten(range(8)), "the others to be forgotten")
    # What the gateway did for the first time meanwhile may be new, such as a comparison of positions.
    new = await series() - before
    assert len(new) <= 3, new
    assert not [text for _, labels in new for _, text in labels if any(digit in text for digit in "01234567")]


async def test_frames_and_bytes_are_those_that_came(gateways: Gateways, site: Site, session_id: str) -> None:
    """What is counted as sent is what a client reads behind the head, to the byte."""
    gateway = await gateways(site.server, heartbeat_seconds=3600)
    before = await families(gateway.origin)
    for n in range(20):
        site.publish(session_id, "note", {"n": n, "text": "ä" * 500})
    path = gateway.events(session_id, f"replay=all&token={token(session_id=session_id)}")
    request = f"GET {path.removeprefix(gateway.origin)} HTTP/1.0\r\nHost: x\r\n\r\n"
    reading = asyncio.create_task(exchange(gateway.port, request, quiet=5))
    await until(lambda: site.say(session_id, "") > 0, "the stream to listen")
    site.publish(session_id, "last")
    site.call("sse_end", session_id)
    got = await reading
    assert got.closed
    body = got.received.partition(b"\r\n\r\n")[2]
    assert body.startswith(b"retry: ")
    events = EventParser().feed(body)
    kinds = [event.type for event in events]
    assert kinds == ["message"] * 20 + ["ready", "message", "closing"]

    async def closed() -> bool:
        return value(await families(gateway.origin), "streams_closed", reason="session_ended") == 1

    await until(closed, "the end to be counted")
    after = await families(gateway.origin)
    assert value(after, "frames_sent") - value(before, "frames_sent") == len(events)
    assert value(after, "sent_bytes") - value(before, "sent_bytes") == len(body)
    assert value(after, "buffered_bytes") == value(after, "streams") == 0


async def test_each_refusal_is_counted_once_under_its_own_code(
    gateways: Gateways, site: Site, tab: Tab, http: httpx.AsyncClient, session_id: str
) -> None:
    """Every kind of refusal by HTTP, each made once: totals, those of callers, and those of streams."""
    gateway = await gateways(
        site.server,
        min_display_seconds=0,
        max_streams_per_session=1,
        trusted_proxies=["127.0.0.1"],
        call_rate_per_client=0.005,
        max_streams=8,
    )
    await tab(gateway, session_id)
    rights = bearer(session_id, scope="sse:read sse:respond sse:publish")
    # In a session of its own: for two seconds after a settlement an answer means that one.
    late = f"{session_id}-late"
    site.ask(late, request_id="short", expires_in=1)
    before = await families(gateway.origin)
    refused: list[str] = []
    of_streams: list[str] = []

    async def check(code: str, method: str, path: str, **options: Any) -> None:
        answer = await http.request(method, f"{gateway.base}/{path}", **{"headers": rights, **options})
        assert (answer.status_code, answer.json()["code"]) == (STATUS[code], code)
        refused.append(code)
        if path.startswith("events/"):
            of_streams.append(code)

    async def raw(code: str, head: str) -> None:
        got = await exchange(gateway.port, f"{head}\r\nHost: x\r\n\r\n")
        assert got.statuses == [STATUS[code]]
        refused.append(code)

    answering, publishing = f"permission-response/{session_id}", f"publish/{session_id}"
    health = f"health/{session_id}"
    await check("token_missing", "GET", health, headers={})
    await check("token_invalid", "GET", health, headers={"Authorization": "Bearer nonsense"})
    await check("token_expired", "GET", health, headers=bearer(session_id, exp=1_000_000_000))
    await check("forbidden_session", "GET", "health/another")
    await check("missing_scope", "POST", publishing, headers=bearer(session_id), json={})
    await check("ticket_spent", "GET", f"events/{session_id}?ticket=nonsense", headers={})
    await check("bad_session_id", "GET", "events/a%20b")
    await check("bad_parameter", "GET", f"events/{session_id}?replay=nonsense")
    await check("too_many_streams", "GET", f"events/{session_id}")
    await check("not_found", "GET", "nonsense")
    await check("method_not_allowed", "DELETE", health)
    await check("unsupported_media_type", "POST", answering, content=b"{}")
    await check("malformed_json", "POST", answering, content="{", headers=rights | JSON)
    await check("bad_request", "POST", answering, json={})
    await check("payload_too_large", "POST", publishing, content=b"x" * 400_000, headers=rights | JSON)
    await check("invalid_event", "POST", publishing, json={"data": {}})
    event = {"type": "note", "data": {}}
    once = rights | {"Idempotency-Key": "k"}
    assert (await http.post(f"{gateway.base}/{publishing}", json=event, headers=once)).status_code == 200
    await check("idempotency_mismatch", "POST", publishing, json={**event, "data": 1}, headers=once)
    site.ask(late, request_id="awaited")
    url = f"{gateway.base}/permissions/{late}/awaited"
    agent = bearer(late, scope="sse:publish")
    # A quarter of eight streams may wait, and half of that for one user: of two calls one is refused.
    calls = [asyncio.create_task(http.get(f"{url}?wait=60", headers=agent)) for _ in range(2)]
    (answered,), (waiting,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert (answered.result().status_code, answered.result().json()["code"]) == (429, "too_many_waits")
    assert int(answered.result().headers["Retry-After"]) > 0
    refused.append("too_many_waits")
    assert (await http.get(url, headers=agent)).status_code == 200
    site.call("sse_cancel", late, "awaited")
    assert (await waiting).json()["data"]["status"] == "decided"
    assert (await http.get(f"{url}?wait=60", headers=agent)).status_code == 200
    await check("unknown_request", "POST", answering, json={"approved": True, "request_id": "nobody-asked"})
    await check(
        "no_pending_permission",
        "POST",
        "permission-response/empty",
        headers=bearer("empty"),
        json={"approved": True},
    )
    for request_id in ("r1", "r2"):
        site.ask(session_id, request_id=request_id)
    await check("ambiguous_request", "POST", answering, json={"approved": True})
    first = {"approved": True, "request_id": "r1"}
    await check("option_conflict", "POST", answering, json={**first, "option_id": "x"})
    await check("not_editable", "POST", answering, json={**first, "updated_input": {}})
    await check("digest_mismatch", "POST", answering, json={**first, "args_digest": "x"})
    assert (await http.post(f"{gateway.base}/{answering}", json=first, headers=rights)).status_code == 200
    await check("already_decided", "POST", answering, json={**first, "approved": False})
    other = {"type": "permission_request", "data": {"request_id": "r1", "tool_name": "another"}}
    await check("request_mismatch", "POST", publishing, json=other)
    for number in range(99):
        site.ask(session_id, request_id=f"many-{number}")
    await check("too_many_pending", "POST", publishing, json={**other, "data": {"tool_name": "x"}})
    await until(lambda: "decided" in site.call("sse_decision", late, "short"), "the deadline to pass")
    answer_to_it = {"approved": True, "request_id": "short"}
    await check(
        "request_expired", "POST", f"permission-response/{late}", json=answer_to_it, headers=bearer(late)
    )
    from_afar = rights | {"X-Forwarded-For": "203.0.113.9"}
    assert (await http.get(f"{gateway.base}/{health}", headers=from_afar)).status_code == 200
    await check("too_many_requests", "GET", health, headers=from_afar)
    await raw("url_too_long", f"GET /{'x' * 20_000} HTTP/1.1")
    await raw("headers_too_large", f"GET / HTTP/1.1\r\nX-Large: {'x' * 20_000}")
    await raw("expectation_failed", "GET / HTTP/1.1\r\nExpect: the-unexpected")

    after = await families(gateway.origin)

    def moved(name: str, label: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for sign, families_ in ((1, after), (-1, before)):
            for sample in families_[PREFIX + name].samples:
                found[sample.labels[label]] += sign * int(sample.value)
        return Counter({text: count for text, count in found.items() if count})

    assert moved("requests_refused", "code") == Counter(refused)
    assert moved("auth_failures", "code") == Counter(code for code in refused if STATUS[code] in (401, 403))
    assert moved("streams_rejected", "reason") == Counter(of_streams)
    unmade = set(STATUS) - set(refused)
    assert unmade == NEEDS_ANOTHER_GATEWAY | MADE_ELSEWHERE, "each code is made here, or in the next test"


async def test_refusals_that_need_a_fault_or_a_setting_are_counted_too(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    http: httpx.AsyncClient,
    session_id: str,
) -> None:
    """What the test before this one cannot make: each is counted under its code, and has its status."""
    made: set[str] = set()
    scope = "sse:read sse:respond sse:publish"
    good = token(session_id=session_id, scope=scope)
    of_the_provider = token(private_key("rsa-1"), "RS256", session_id=session_id, scope=scope)
    answering = f"permission-response/{session_id}", {"approved": True}
    publishing = f"publish/{session_id}", {"type": "note", "data": {}}

    async def check(code: str, base: str, call: tuple[str, dict[str, Any]]) -> None:
        async def counted() -> float:
            found = await families(base.partition(BASE_PATH)[0])
            return value(found, "requests_refused", code=code)

        before = await counted()
        shown = of_the_provider if code == "keys_unavailable" else good
        headers = {"Authorization": f"Bearer {shown}"}
        answer = await http.post(f"{base}/{call[0]}", headers=headers, json=call[1])
        assert (answer.status_code, answer.json()["code"]) == (STATUS[code], code)
        assert await counted() == before + 1
        made.add(code)

    link = proxied(own_server)
    gateway = await gateways(link, min_display_seconds=60)
    strict = await gateways(own_server, require_request_id=True)
    await check("request_id_required", strict.base, answering)
    own_server.client.execute_command("FCALL", "sse_ask", 1, session_id, '{"tool_name":"bash"}')
    await check("too_new", gateway.base, answering)
    own_server.client.execute_command("ACL", "SETUSER", "default", "-xadd")
    await check("internal_error", gateway.base, publishing)
    own_server.client.execute_command("ACL", "SETUSER", "default", "+xadd")
    link.refuse()
    await check("redis_unavailable", gateway.base, publishing)
    nobody = f"http://127.0.0.1:{free_port()}/keys"
    guard = authenticator(jwt_jwks_url=nobody, jwt_algorithms=("RS256",))
    async with local_gateway(own_server.url, authenticator=guard) as without_keys:
        await check("keys_unavailable", without_keys.base, publishing)
    assert made == NEEDS_ANOTHER_GATEWAY


async def test_a_probe_that_does_not_come_back_is_counted(
    own_server: RedisProcess, proxied: Callable[[RedisProcess], Proxy], session_id: str
) -> None:
    """A push connection that delivers nothing shows in two metrics."""
    link = proxied(own_server)
    async with local_gateway(link.url, probe_seconds=0.2, probe_timeout_seconds=0.3) as gateway:
        origin = gateway.base.partition("/agent_backend")[0]
        async with await SSEStream.open(
            gateway.events(session_id), token=token(session_id=session_id)
        ) as stream:
            await stream.ready()
            assert value(await families(origin), "push_connected") == 1
            link.swallow()
            await until(lambda: _value_is(origin, "push_connected", 0), "the probe to fail")
            assert value(await families(origin), "push_probe_failures") >= 1
