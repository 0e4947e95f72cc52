"""From a raw Redis client to every tab: what is taken, how it arrives, and what is refused."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from tests.support.gateway import GatewayProcess
from tests.support.modes import missing
from tests.support.wait import until
from tests.web.site import Site, Tab, arrived, bearer

MAX_EVENT_BYTES = 256 * 1024


async def malformed(gateway: GatewayProcess) -> float:
    """Return how many messages this gateway has refused."""
    return (await gateway.metrics())['sse_gateway_events_received_total{kind="malformed"}']


def sized(length: int) -> str:
    """Return an event of exactly this many bytes."""
    frame = '{"type":"tool_result","data":{"text":""}}'
    return frame.replace('""', '"' + "é" * ((length - len(frame)) // 2) + '"')


async def test_every_tab_gets_every_event_once_and_in_order(
    any_site: Site, tab: Tab, session_id: str
) -> None:
    """Events of many publishers arrive once at each tab of both gateways, in the order of their ids."""
    streams = [await tab(gateway, session_id) for gateway in (any_site.a, any_site.b) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: any_site.publish(session_id, "tool_status", {"n": n}), range(160)))
    expected = sorted(ids, key=lambda id: int(id.partition("-")[2]))
    assert [int(id.partition("-")[2]) for id in expected] == list(range(1, 161))
    by_id = {id: n for n, id in enumerate(ids)}
    for stream in streams:
        await arrived(stream, 160)
        assert stream.ids == expected
        assert [message["id"] for message in stream.messages] == expected
        assert [message["data"]["n"] for message in stream.messages] == [by_id[id] for id in expected]
        assert not stream.named("stream_reset")
        assert not stream.parser.complaints


async def test_both_lines_of_the_readme_work_as_typed(any_site: Site, tab: Tab, session_id: str) -> None:
    """What a person types into redis-cli arrives: FCALL as a durable event, PUBLISH as one without id."""
    streams = [await tab(any_site.a, session_id), await tab(any_site.b, session_id)]
    event = '{"type":"tool_status","data":{"status":"executing"}}'
    id = any_site.call("sse_publish", session_id, event)
    assert any_site.say(session_id, event) == 2
    for stream in streams:
        durable, plain = await arrived(stream, 2)
        assert durable["id"] == id
        assert "id" not in plain
        assert plain["session_id"] == session_id
        assert plain["data"] == durable["data"] == {"status": "executing"}
        assert plain["timestamp"] >= durable["timestamp"]
        assert stream.ids == [id]
        assert stream.parser.last_event_id == id


async def test_redis_cli_itself(site: Site, tab: Tab, session_id: str) -> None:
    """The machine's redis-cli publishes with the documented line and prints the id."""
    stream = await tab(site.a, session_id)
    event = '{"type":"tool_status","data":{"status":"executing"}}'
    command = ["redis-cli", "-u", site.server.url, "FCALL", "sse_publish", "1", session_id, event]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except FileNotFoundError:
        missing("redis-cli")
    await stream.message("tool_status")
    assert stream.ids == [done.stdout.strip()]


TEXTS = {
    "pretty-printed": '{\n  "type": "tool_result",\r\n\t"data": {\n "a": [1,\n2] }\n}\n',
    "line ends in strings": r'{"type":"tool_result","data":"a\nb\r\nc\rd\u0000e\u2028f"}',
    "non-ASCII": '{"type":"tool_result","data":"größer 日本 🙂 \u2028 \ufeff"}',
    "escaped emoji": r'{"type":"tool_result","data":"\ud83d\ude42"}',
    "looks like a frame": '{"type":"tool_result","data":"x\\n\\nevent: closing\\ndata: {}\\n\\n"}',
    "numbers": '{"type":"tool_result","data":[1e400,-0.0,12345678901234567890,0.1]}',
    "empty things": '{"type":"tool_result","data":{"a":[],"b":{},"c":"","d":null}}',
    "no data": '{"type":"tool_result"}',
    "scalar data": '{"type":"tool_result","data":7}',
    "further members": '{"type":"x.y-z_1","data":{},"event":"closing","retry":1,"zusätzlich":true}',
}


@pytest.mark.parametrize("way", ["FCALL", "PUBLISH"])
@pytest.mark.parametrize("case", TEXTS)
async def test_any_json_arrives_as_it_was_meant(
    site: Site, tab: Tab, session_id: str, case: str, way: str
) -> None:
    """An event's JSON comes back equal from an independent parser, whichever way it was published."""
    text = TEXTS[case]
    stream = await tab(site.a, session_id)
    site.call("sse_publish", session_id, text) if way == "FCALL" else site.say(session_id, text)
    (message,) = await arrived(stream, 1)
    for member in ("id", "session_id", "timestamp"):
        message.pop(member, None)
    assert message == json.loads(text)
    assert {event.type for event in stream.events} == {"ready", "message"}
    assert len(stream.messages) == 1
    assert not stream.parser.complaints or "replacement" in stream.parser.complaints[0]


@pytest.mark.parametrize("way", ["FCALL", "PUBLISH"])
async def test_the_largest_event_arrives_whole(any_site: Site, tab: Tab, session_id: str, way: str) -> None:
    """256 KiB arrive unharmed at both gateways and again from history; one more is refused."""
    text = sized(MAX_EVENT_BYTES)
    assert MAX_EVENT_BYTES - 2 <= len(text.encode()) <= MAX_EVENT_BYTES
    streams = [await tab(any_site.a, session_id), await tab(any_site.b, session_id)]
    if way == "FCALL":
        any_site.call("sse_publish", session_id, text)
        streams.append(await tab(any_site.a, session_id, "replay=all"))
        with pytest.raises(redis.ResponseError, match="SSE_TOO_LARGE"):
            any_site.call("sse_publish", session_id, sized(MAX_EVENT_BYTES + 2))
    else:
        any_site.say(session_id, text)
        any_site.say(session_id, sized(MAX_EVENT_BYTES + 2))
    for stream in streams:
        assert (await stream.message("tool_result"))["data"] == json.loads(text)["data"]
    any_site.publish(session_id, "tool_status")
    for stream in streams:
        await stream.message("tool_status")
        assert len(stream.messages) == 2


REFUSED: dict[str, tuple[str, str]] = {
    "no JSON": ("hello", "SSE_INVALID_JSON"),
    "cut off": ('{"type":"x"', "SSE_INVALID_JSON"),
    "NaN": ('{"type":"x","data":NaN}', "SSE_INVALID_JSON"),
    "hexadecimal": ('{"type":"x","data":0x10}', "SSE_INVALID_JSON"),
    "too deep": ('{"type":"x","data":' + "[" * 70 + "]" * 70 + "}", "SSE_INVALID_JSON"),
    "an array": ("[1]", "SSE_NOT_AN_OBJECT"),
    "a string": ('"x"', "SSE_NOT_AN_OBJECT"),
    "no type": ('{"data":{}}', "SSE_NO_TYPE"),
    "a type that is no string": ('{"type":7}', "SSE_BAD_TYPE"),
    "a type with a line end": (r'{"type":"a\nb"}', "SSE_BAD_TYPE"),
    "the gateway's clearing": ('{"type":"permission_cleared","data":{}}', "SSE_RESERVED_TYPE"),
    "the gateway's heartbeat": ('{"type":"heartbeat"}', "SSE_RESERVED_TYPE"),
    "an id": ('{"type":"x","id":"0123456789-1"}', "SSE_HAS_ID"),
    "another session's": ('{"type":"x","session_id":"other"}', "SSE_FOREIGN_SESSION"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_call_says_why(any_site: Site, session_id: str, case: str) -> None:
    """FCALL refuses what must not be kept, with a code of its own, and leaves nothing behind."""
    text, code = REFUSED[case]
    with pytest.raises(redis.ResponseError, match=f"^{code} "):
        any_site.call("sse_publish", session_id, text)
    assert any_site.server.client.keys(f"sse:{{{session_id}}}:*") == []


async def test_refused_messages_are_counted_and_the_stream_lives_on(
    any_site: Site, tab: Tab, session_id: str
) -> None:
    """What a plain PUBLISH may not say reaches nobody, is counted at each gateway, logged once."""
    streams = [await tab(any_site.a, session_id), await tab(any_site.b, session_id)]
    before = [await malformed(any_site.a), await malformed(any_site.b)]
    for text, _ in REFUSED.values():
        any_site.say(session_id, text)
    # Bytes that are not UTF-8, and a forged durable event.
    any_site.say(session_id, b'{"type":"x","data":"\xff\xfe"}')
    cursor = streams[0].named("ready")[0]["cursor"]
    any_site.say(session_id, f'{{"id":"{cursor[:-1]}9","session_id":"{session_id}","type":"x","data":{{}}}}')
    last = any_site.publish(session_id, "tool_status")
    expected = len(REFUSED) + 2
    for stream, gateway, count in zip(streams, (any_site.a, any_site.b), before, strict=True):
        await stream.message("tool_status")
        assert [message["id"] for message in stream.messages] == [last]
        assert not stream.named("stream_reset")

        async def counted(gateway: GatewayProcess = gateway, count: float = count) -> bool:
            return await malformed(gateway) == count + expected

        await until(counted, f"{expected} messages to be counted as malformed")
        lines = [
            line
            for line in gateway.logs("dropped an event")
            if session_id in (line.get("session"), line.get("session_id"))
        ]
        assert len(lines) == 1


async def test_http_publishes_for_backends_without_redis(
    any_site: Site, tab: Tab, http: httpx.AsyncClient, session_id: str
) -> None:
    """POST publish returns the event's id, publishes once for a repeated key, and refuses as FCALL does."""
    streams = [await tab(any_site.a, session_id), await tab(any_site.b, session_id)]
    url = f"{any_site.a.base}/publish/{session_id}"
    headers = bearer(session_id, scope="sse:publish")

    async def post(body: Any, **more: str) -> httpx.Response:
        return await http.post(url, json=body, headers=headers | more)

    event = {"type": "tool_result", "data": {"n": 1}}
    first, again = [await post(event, **{"Idempotency-Key": "k1"}) for _ in range(2)]
    assert first.json() == {"success": True, "data": {"id": first.json()["data"]["id"]}}
    assert again.json() == first.json()
    changed = await post({"type": "x"}, **{"Idempotency-Key": "k1"})
    assert (changed.status_code, changed.json()["code"]) == (422, "idempotency_mismatch")
    refusals = {
        "invalid_event": [[], {"data": 1}, {"type": "heartbeat"}, {"type": "x", "id": "1"}, {"type": 7}],
        "payload_too_large": [json.loads(sized(MAX_EVENT_BYTES + 200))],
    }
    for code, bodies in refusals.items():
        for body in bodies:
            answer = await post(body)
            assert answer.status_code == {"invalid_event": 400, "payload_too_large": 413}[code]
            assert answer.json()["code"] == code
    broken = await http.post(url, content=b'{"type":', headers=headers | {"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed_json")

    last = any_site.publish(session_id, "tool_status")
    for stream in streams:
        await stream.message("tool_status")
        assert stream.ids == [first.json()["data"]["id"], last]


async def test_events_of_other_sessions_stay_there(site: Site, tab: Tab, session_id: str) -> None:
    """A tab gets its session's events only, however alike the ids are."""
    names = [session_id, f"{session_id}-2", session_id[:-1], session_id.upper()]
    streams = {name: await tab(site.b, name) for name in names}
    ids = {name: site.publish(name, "tool_status", {"for": name}) for name in names}
    for name, stream in streams.items():
        await stream.message("tool_status")
        assert stream.ids == [ids[name]]
        assert stream.messages[0]["data"] == {"for": name}
