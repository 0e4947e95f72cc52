"""What the gateway writes to its log, and that no token is ever in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
import pytest

from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.stream import get
from tests.support.tokens import OTHER_SECRET, SECRET, token
from tests.support.wait import until
from tests.web.site import Gateways, Site, Tab, bearer, raw

PASSWORD = "pass-w0rd-of-the-tests"


async def test_each_stream_has_two_lines(site: Site, tab: Tab, session_id: str) -> None:
    """A stream's beginning and end are one line each, with who, which session, why, and how much."""
    stream = await tab(site.a, session_id, claims={"sub": "ann"})
    cursor = site.publish(session_id, "tool_status")
    await stream.message("tool_status")
    stream.close()

    def lines(message: str) -> list[dict[str, object]]:
        return [line for line in site.a.logs(message) if line.get("session") == session_id]

    await until(lambda: lines("SSE stream closed"), "the line of the end")
    (opened,), (closed,) = lines("SSE stream opened"), lines("SSE stream closed")
    for line in (opened, closed):
        assert (line["level"], line["user"]) == ("info", "ann")
    assert opened["message"] == "SSE stream opened"
    assert opened["cursor"] == cursor.replace("-1", "-0")
    assert closed["message"] == "SSE stream closed"
    assert closed["reason"] == "client_gone"
    assert 0 < float(str(closed["seconds"])) < 60
    # `ready` and the event, and perhaps a heartbeat.
    assert int(str(closed["events"])) >= 2
    assert int(str(closed["bytes"])) > 100


def leaks(log: str, secret: str) -> list[str]:
    """Return what the log holds of a secret: any twelve characters in a row of a token's last two parts."""
    parts = secret.split(".")[1:] or [secret]
    size = 12
    return [
        part[at : at + size]
        for part in parts
        for at in range(max(1, len(part) - size + 1))
        if part[at : at + size] in log
    ]


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_token_is_ever_logged(
    site: Site, gateways: Gateways, http: httpx.AsyncClient, tab: Tab, session_id: str, form: str
) -> None:
    """At debug level, on good paths and on every bad one, nothing of a token or a secret is in the log."""
    gateway = await gateways(site.server, log_format=form, log_level="debug", heartbeat_seconds=0.1)
    path = gateway.events(session_id).removeprefix(gateway.origin)
    good = token(session_id=session_id)
    bad = {
        "expired": token(session_id=session_id, exp=int(time.time()) - 60),
        "foreign": token(session_id=f"{session_id}-2"),
        "of another secret": token(OTHER_SECRET, session_id=session_id),
        "of an unknown algorithm": token(session_id=session_id, headers={"alg": "HS384"}),
        "without rights": token(session_id=session_id, scope="sse:none"),
    }
    stream = await tab(gateway, session_id, token=good)
    for made in bad.values():
        assert (await get(gateway.events(session_id, f"token={made}"))).status >= 401
        assert (await get(gateway.events(session_id), token=made)).status >= 401
    for made in (good, *bad.values()):
        url = f"{gateway.base}/permission-response/{session_id}"
        await http.post(f"{url}?token={made}", json={"approved": True})
        await http.post(
            url, json={"approved": True, "token": made}, headers={"Authorization": f"Bearer {made}"}
        )
        await http.post(url, content=made, headers=bearer(session_id))
        await http.get(f"{gateway.origin}/nothing?token={made}&x=1")
        await http.get(f"{gateway.base}/{made}")
        await get(f"{gateway.base}/events/{made}", token=made)
        await get(gateway.events(session_id, f"replay={made}"), token=made)
        await tab(gateway, session_id, f"Token={made}", ready=False, headers={"Cookie": f"jwt={made}"})
    # Requests that the HTTP parser itself refuses, quoting what it could not read.
    made = good
    unreadable = [
        f"GET {path}?token={made}\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET {path}?token={made} HTTP/9.9\r\nHost: x\r\n\r\n",
        f"GET {path}?token={made} x HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {made}\x01\r\n\r\n",
        f"GET {path} HTTP/1.1\r\nAuthorization Bearer {made}\r\n\r\n",
        f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {made}{'a' * 20_000}\r\n\r\n",
        f"GET {path}?token={made}{'a' * 20_000} HTTP/1.1\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nContent-Length: {made}\r\n\r\n",
        f"{made}\r\n\r\n",
        f"\x16\x03\x01{made}",
    ]
    await asyncio.gather(*(raw(gateway, request) for request in unreadable))
    site.say(session_id, f'{{"type":"x","token":"{good}"')
    site.publish(session_id, "tool_status", {"token": good})
    await stream.message("tool_status")
    assert gateway.stop() == 0
    log = gateway.log_text()
    assert "SSE stream closed" in log
    for name, secret in {**bad, "good": good, "secret": SECRET}.items():
        assert not leaks(log, secret), name
    levels = {line["level"] for line in gateway.logs()} if form == "json" else set()
    assert "error" not in levels
    assert "Traceback" not in log, "an error that nobody foresaw"


async def test_no_password_is_ever_logged(
    own_server: RedisProcess,
    gateways: Gateways,
    proxied: Callable[[RedisProcess], Proxy],
    tab: Tab,
    session_id: str,
) -> None:
    """Redis' password in its URL stays out of the log while Redis is there, refuses it, and is gone."""
    own_server.client.config_set("requirepass", PASSWORD)
    link = proxied(own_server)
    right, wrong = [f"redis://:{word}@127.0.0.1:{link.port}/0" for word in (PASSWORD, PASSWORD[::-1])]
    gateway = await gateways(right)
    await tab(gateway, session_id)
    refused = await gateways(wrong, wait="live")
    await refused.answers("/readyz", 503)
    await until(lambda: refused.logs("push connection failed"), "the refused password to be logged")
    link.refuse()
    await gateway.answers("/readyz", 503)
    await until(lambda: gateway.logs("push connection failed"), "the outage to be logged")
    assert gateway.stop() == refused.stop() == 0
    for one in (gateway, refused):
        assert PASSWORD not in one.log_text()
        assert PASSWORD[::-1] not in one.log_text()
