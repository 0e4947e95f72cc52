"""config/nginx.conf, the very file, in a real nginx: only ports and paths are filled in, as operators do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import leaks
from tests.support.certificates import Authority
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.sse import Event, EventParser
from tests.support.tokens import token
from tests.web.site import Gateways, Site, bearer

FILE = Path(__file__).parents[2] / "config" / "nginx.conf"
BASE = "/agent_backend/api/sse"
Start = Callable[[Nginx], Nginx]


class Proxy:
    """The file's nginx before gateways on some ports; `http` trusts its certificate."""

    def __init__(self, start: Start, folder: Path, ports: Sequence[int]) -> None:
        """Fill in what the file tells operators to fill in, and start."""
        authority = Authority(folder)
        options = authority.server_options("127.0.0.1")
        self.nginx = Nginx("")
        text = FILE.read_text()
        for old, new in {
            "server 127.0.0.1:8000;": "".join(f"server 127.0.0.1:{port};" for port in ports),
            "listen 443 ssl http2;": "listen 127.0.0.1:$PORT ssl http2;",
            "sse.example.org": "127.0.0.1",
            "/etc/nginx/tls/fullchain.pem": options["tls-cert-file"],
            "/etc/nginx/tls/privkey.pem": options["tls-key-file"],
            "/var/log/nginx": str(self.nginx.folder),
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        self.nginx = start(self.nginx.holding(text))
        self.origin = f"https://127.0.0.1:{self.nginx.port}"
        self.base = self.origin + BASE
        self._trusting = ssl.create_default_context(cafile=authority.ca_file)
        self.http = self.client()

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Make a client that trusts the certificate; the caller closes it."""
        transport = httpx.AsyncHTTPTransport(verify=self._trusting, **options)
        return httpx.AsyncClient(transport=transport, base_url=self.base, timeout=10)

    @asynccontextmanager
    async def stream(self, session_id: str, **query: str) -> AsyncIterator[Stream]:
        """Open a stream as an `EventSource` does, everything in the query."""
        async with self.http.stream("GET", f"/events/{session_id}", params=query) as response:
            yield Stream(response)

    def logs(self) -> dict[str, str]:
        """Return what nginx has written, by the files' names."""
        return {path.name: path.read_text() for path in self.nginx.folder.glob("*.log")}


class Stream:
    """Events as they come out of a response."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._parser = EventParser()
        self._pieces = response.aiter_raw()
        self._events: list[Event] = []

    async def next(self) -> Event:
        """Return the next event."""
        async with asyncio.timeout(5):
            while not self._events:
                self._events += self._parser.feed(await anext(self._pieces))
        return self._events.pop(0)

    async def until(self, kind: str) -> Any:
        """Return the JSON of the next event of this name, or the next default event of this type."""
        while True:
            event = await self.next()
            if kind in (event.type, event.json.get("type")):
                return event.json


@pytest.fixture
async def proxied(nginx: Start, tmp_path: Path) -> AsyncIterator[Callable[..., Proxy]]:
    """Put the file's nginx before gateways on these ports."""
    made: list[Proxy] = []

    def make(*ports: int) -> Proxy:
        made.append(Proxy(nginx, tmp_path, ports))
        return made[-1]

    yield make
    for proxy in made:
        await proxy.http.aclose()


async def test_a_stream_and_an_answer_go_through(
    site: Site, proxied: Callable[..., Proxy], session_id: str
) -> None:
    """Events one by one as they are published, heartbeats, a large one whole; a request is answered."""
    proxy = proxied(site.a.port)
    async with proxy.stream(session_id, token=token(session_id=session_id)) as stream:
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["cache-control"] == "no-cache, no-store, no-transform"
        assert stream.response.headers["server"] == "nginx", "and no version of it"
        assert stream.response.headers["strict-transport-security"].startswith("max-age=")
        await stream.until("ready")
        for n in range(3):
            site.publish(session_id, "tool_status", {"n": n})
            assert (await stream.until("tool_status"))["data"] == {"n": n}
        site.publish(session_id, "tool_result", {"text": "x" * 200_000})
        assert len((await stream.until("tool_result"))["data"]["text"]) == 200_000
        await stream.until("heartbeat")
        request_id = site.ask(session_id)["request_id"]
        await stream.until("permission_request")
        answer = await proxy.http.post(
            f"/permission-response/{session_id}",
            json={"approved": True, "request_id": request_id},
            headers=bearer(session_id),
        )
        assert answer.json()["data"]["outcome"] == "approved"
        assert (await stream.until("permission_cleared"))["data"]["approved"] is True


async def test_without_a_gateway_an_eventsource_is_told_to_try_again(
    site: Site, proxied: Callable[..., Proxy], session_id: str
) -> None:
    """A 200 with `retry:` on the streams' path alone; a refusal of a gateway's goes through as it is."""
    made = token(session_id=session_id)
    away = await proxied(free_port()).http.get(f"/events/{session_id}", params={"token": made})
    assert away.status_code == 200
    assert away.headers["content-type"] == "text/event-stream"
    assert away.headers["cache-control"] == "no-store"
    assert away.text == "retry: 5000\n\n"
    parser = EventParser()
    assert parser.feed(away.content) == []
    assert (parser.retry, parser.complaints) == (5000, [])
    call = await proxied(free_port()).http.get(f"/health/{session_id}", headers=bearer(session_id))
    assert call.status_code == 502
    refused = await proxied(site.a.port).http.get(f"/events/{session_id}", params={"token": "nonsense"})
    assert (refused.status_code, refused.json()["code"]) == (401, "token_invalid")


async def test_of_two_gateways_one_may_be_away(
    site: Site, proxied: Callable[..., Proxy], session_id: str
) -> None:
    """Nobody notices: the next gateway is asked, for streams and for calls."""
    proxy = proxied(free_port(), site.a.port)
    for _ in range(3):
        async with proxy.stream(session_id, token=token(session_id=session_id)) as stream:
            await stream.until("ready")
        answer = await proxy.http.get(f"/permissions/{session_id}", headers=bearer(session_id))
        assert answer.status_code == 200


async def test_the_clients_own_address_is_what_counts(
    site: Site, gateways: Gateways, proxied: Callable[..., Proxy], session_id: str
) -> None:
    """The proxy adds who came to X-Forwarded-For, and a gateway that trusts it goes by that."""
    gateway = await gateways(site.server, trusted_proxies=["127.0.0.1"], call_rate_per_client=0.005)
    proxy = proxied(gateway.port)

    async def calls(forwarded: str, of: httpx.AsyncClient) -> list[int]:
        headers = bearer(session_id) | {"X-Forwarded-For": forwarded}
        return [(await of.get(f"/permissions/{session_id}", headers=headers)).status_code for _ in range(2)]

    # From 127.0.0.1, which is trusted, this test is an outer proxy that tells the truth.
    assert await calls("203.0.113.9", proxy.http) == [200, 429]
    # From 127.0.0.2 it is a client that lies about its address; its own is the loopback's, without a rate.
    async with proxy.client(local_address="127.0.0.2") as liar:
        assert await calls("203.0.113.10", liar) == [200, 200]


async def test_nothing_but_the_api_is_to_be_reached(site: Site, proxied: Callable[..., Proxy]) -> None:
    """Metrics and probes are for the machines around, not for browsers."""
    proxy = proxied(site.a.port)
    for path in ("/metrics", "/readyz", "/healthz", "/", f"{BASE}/../../metrics", f"{BASE}/%2e%2e/metrics"):
        answer = await proxy.http.get(proxy.origin + path)
        assert answer.status_code == 404, path
        assert "sse_gateway_" not in answer.text


async def test_no_token_is_in_any_log_of_nginx(
    site: Site, gateways: Gateways, proxied: Callable[..., Proxy], session_id: str
) -> None:
    """Neither of those who came through nor of those who did not, whatever went wrong meanwhile."""
    gateway = await gateways(site.server)
    proxy = proxied(gateway.port)
    headers = bearer(session_id, scope="sse:read sse:publish")
    made = token(session_id=session_id)
    ticket = leaks.noted(
        (await proxy.http.post(f"/ticket/{session_id}", headers=headers)).json()["data"]["ticket"]
    )
    referer = {"Referer": f"{proxy.base}/console?token={made}"}
    async with proxy.stream(session_id, ticket=ticket) as stream:
        await stream.until("ready")
        too_large = await proxy.http.post(
            f"/publish/{session_id}?token={made}", headers=headers | referer, content=b"x" * 400_000
        )
        assert too_large.status_code == 413
        too_long = await proxy.http.get(f"/events/{session_id}", params={"token": made, "x": "y" * 40_000})
        assert too_long.status_code == 414
        gateway.kill()
    for path in (f"/events/{session_id}", f"/publish/{session_id}", "/nothing"):
        await proxy.http.get(path, params={"token": made}, headers=referer)
    logs = proxy.logs()
    assert set(logs) >= {"sse_gateway.access.log", "sse_gateway.error.log"}
    lines = logs["sse_gateway.access.log"].splitlines()
    assert len(lines) >= 7
    assert any(f'"GET {BASE}/events/{session_id} HTTP/1.1" 200' in line for line in lines)
    for name, text in logs.items():
        assert not leaks.found_in(text), name
        assert "token=" not in text, name
        assert "ticket=" not in text, name
