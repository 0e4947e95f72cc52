"""How often one may come: by client address, by user; and whose address counts."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import httpx
import pytest
from aiohttp.test_utils import make_mocked_request

from sse_gateway.web.clients import MOST_HOPS, Clients
from sse_gateway.web.rates import BURST_SECONDS, Rate
from tests.support.gateway import GatewayProcess
from tests.support.stream import SSEStream, get
from tests.support.tokens import token
from tests.support.wait import until
from tests.support.wire import exchange
from tests.web.site import Gateways, Site, Tab, bearer

LOOPBACK = "127.0.0.1"
ONE_CALL = 0.005
"""A rate of one call in 200 seconds, longer than any of these tests takes."""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_holds_over_time_and_lets_bursts_through() -> None:
    """Ten seconds' worth may come at once, then as many as the rate says; the wait told is enough."""
    clock = Clock()
    rate = Rate(5, clock=clock)
    taken = 0
    while not (wait := rate.take("a")):
        taken += 1
    assert taken == 5 * BURST_SECONDS
    assert 0 < wait <= 0.2
    assert rate.take("a") == pytest.approx(wait)
    clock.now += wait
    assert rate.take("a") == 0
    assert rate.take("a") > 0
    assert rate.take("b") == 0
    clock.now += 3
    assert [rate.take("a") for _ in range(15)] == [0] * 15
    assert rate.take("a") > 0


def test_a_rate_below_one_a_second_lets_one_through() -> None:
    clock = Clock()
    rate = Rate(0.01, clock=clock)
    assert rate.take("a") == 0
    assert rate.take("a") == pytest.approx(100)


def test_no_rate_is_no_limit() -> None:
    rate = Rate(0)
    assert not any(rate.take("a") for _ in range(10_000))
    assert len(rate) == 0


def test_a_rate_keeps_a_bounded_number_of_keys() -> None:
    """An attacker with many addresses fills no memory, and those who left are forgotten."""
    clock = Clock()
    rate = Rate(1, clock=clock, most_keys=100)
    for number in range(10_000):
        rate.take(str(number))
        assert len(rate) <= 100
    clock.now += 1000
    rate.take("a")
    assert len(rate) == 1


def test_who_is_over_the_rate_does_not_get_further_over_it() -> None:
    """Refused calls count for nothing: whoever goes on knocking is let in when there is room."""
    clock = Clock()
    rate = Rate(1, clock=clock)
    for _ in range(1000):
        rate.take("a")
    clock.now += 1
    assert rate.take("a") == 0


PROXIES = [ipaddress.ip_network(network) for network in ("10.0.0.0/8", "127.0.0.1", "fd00::/8")]
FORWARDED: dict[str, tuple[str, list[str], str | None]] = {
    "nobody in between": ("203.0.113.9", [], "203.0.113.9"),
    "a header nobody of ours wrote": ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
    "one proxy": ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
    "a forged one before it": ("10.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
    "a forged proxy before it": ("10.0.0.1", ["10.9.9.9, 203.0.113.9"], "203.0.113.9"),
    "two proxies": ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
    "in two headers": ("10.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
    "a proxy's own call": ("10.0.0.1", [], "10.0.0.1"),
    "proxies alone": ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    "with a port": ("10.0.0.1", ["203.0.113.9:51111"], "203.0.113.9"),
    "IPv6": ("10.0.0.1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
    "IPv6 with a port": ("10.0.0.1", ["[2001:db8:1:2:3:4:5:6]:51111"], "2001:db8:1:2::/64"),
    "IPv4 inside IPv6": ("::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
    "an IPv6 proxy": ("fd00::1", ["203.0.113.9"], "203.0.113.9"),
    "what is no address": ("10.0.0.1", ["unknown"], "10.0.0.1"),
    "behind what is no address": ("10.0.0.1", ["203.0.113.9, <script>"], "10.0.0.1"),
    "an endless text": ("10.0.0.1", ["1" * 5000], "10.0.0.1"),
    "nothing": ("10.0.0.1", [""], "10.0.0.1"),
    "this machine": ("127.0.0.1", [], None),
    "this machine by IPv6": ("::1", ["203.0.113.9"], None),
    "a proxy on this machine": ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
    "no peer": ("", ["203.0.113.9"], None),
    "endless proxies": ("10.0.0.1", ["203.0.113.9," + ",".join(["10.0.0.2"] * MOST_HOPS)], "10.0.0.2"),
}


@pytest.mark.parametrize("case", FORWARDED)
def test_the_last_address_that_our_proxies_have_seen_counts(case: str) -> None:
    """What stands left of the rightmost address that is not a proxy of ours may be anybody's invention."""
    peer, headers, expected = FORWARDED[case]
    request = make_mocked_request("GET", "/", headers=[("X-Forwarded-For", header) for header in headers])  # type: ignore[arg-type]
    assert Clients(PROXIES).address_of(request.clone(remote=peer)) == expected


async def call(
    http: httpx.AsyncClient, gateway: GatewayProcess, session_id: str, client: str, **claims: Any
) -> httpx.Response:
    """Ask for a session's health as some client's address."""
    headers = bearer(session_id, **claims) | {"X-Forwarded-For": client}
    return await http.get(f"{gateway.base}/health/{session_id}", headers=headers)


async def test_too_many_calls_of_an_address_are_a_429(
    site: Site, gateways: Gateways, http: httpx.AsyncClient, session_id: str
) -> None:
    """One address has its rate, whatever it puts into the header; and it is told. Others have theirs."""
    gateway = await gateways(
        site.server, trusted_proxies=[LOOPBACK], call_rate_per_client=ONE_CALL, call_rate_per_user=0
    )
    assert (await call(http, gateway, session_id, "203.0.113.9")).status_code == 200
    # A client cannot make itself another by what it writes itself.
    refused = await call(http, gateway, session_id, "198.51.100.77, 203.0.113.9")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert int(refused.headers["retry-after"]) >= 1
    assert "203.0.113.9" not in refused.text
    # A bad token counts as well: who guesses is who is to be slowed down.
    for path in (f"publish/{session_id}", f"permission-response/{session_id}", f"ticket/{session_id}"):
        answer = await http.post(f"{gateway.base}/{path}", headers={"X-Forwarded-For": "203.0.113.9"})
        assert answer.status_code == 429
    assert (await call(http, gateway, session_id, "203.0.113.10")).status_code == 200
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = await http.get(f"{gateway.origin}{path}", headers={"X-Forwarded-For": "203.0.113.9"})
        assert answer.status_code == 200
    metrics = await gateway.metrics()
    assert metrics['sse_gateway_requests_refused_total{code="too_many_requests"}'] == 4
    (warned,) = gateway.logs("a client address is over its rate")
    assert (warned["client"], warned["setting"]) == ("203.0.113.9", "CALL_RATE_PER_CLIENT")


async def test_too_many_calls_of_a_user_are_a_429(
    site: Site, gateways: Gateways, http: httpx.AsyncClient, session_id: str
) -> None:
    """A user has one rate over all addresses and sessions, and another user another."""
    gateway = await gateways(site.server, trusted_proxies=[LOOPBACK], call_rate_per_user=ONE_CALL)
    assert (await call(http, gateway, f"{session_id}-1", "203.0.113.1", sub="ann")).status_code == 200
    refused = await call(http, gateway, session_id, "203.0.113.99", sub="ann")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert (await call(http, gateway, session_id, "203.0.113.99", sub="bob")).status_code == 200


async def test_too_many_streams_of_an_address_are_sent_away_to_come_back(
    site: Site, gateways: Gateways, tab: Tab, session_id: str
) -> None:
    """Not by a 429, for which a native client would give up: by a 200 that says when to try again."""
    gateway = await gateways(site.server, trusted_proxies=[LOOPBACK], stream_rate_per_client=ONE_CALL)
    mine, other = ({"X-Forwarded-For": f"203.0.113.{n}"} for n in (1, 2))
    await tab(gateway, session_id, headers=mine)
    # Before the token is looked at: guessing is limited, too.
    for made in (token(session_id=session_id), "bad"):
        stream = await tab(gateway, session_id, ready=False, headers=mine, token=made)
        assert (stream.status, await stream.ended()) == (200, "clean")
        assert [event.type for event in stream.events] == ["closing"]
        closing = stream.events[0].json
        assert (closing["reason"], closing["reconnect"]) == ("overloaded", True)
        assert stream.parser.retry == closing["retry_ms"] >= 5000
    assert (await get(gateway.events(session_id), headers=other, token="bad")).status == 401
    assert (await gateway.metrics())['sse_gateway_streams_rejected_total{reason="rate"}'] == 2


async def test_an_unknown_proxy_is_told_of_once(
    site: Site, gateways: Gateways, http: httpx.AsyncClient, session_id: str
) -> None:
    """Whoever forgot TRUSTED_PROXIES finds out; on the same machine nobody is limited by address then."""
    gateway = await gateways(site.server, call_rate_per_client=ONE_CALL)
    for n in range(3):
        assert (await call(http, gateway, session_id, f"203.0.113.{n}")).status_code == 200
    (line,) = gateway.logs("X-Forwarded-For is not believed")
    assert (line["level"], line["sender"]) == ("warning", LOOPBACK)
    assert line["message"].endswith("its clients have no rate by address")


def test_an_unknown_proxy_of_another_machine_is_told_that_its_clients_count_as_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They do: what it says of them may be anybody's invention."""
    clients = Clients([])
    request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": "203.0.113.9"})
    assert clients.address_of(request.clone(remote="192.0.2.1")) == "192.0.2.1"
    assert caplog.messages[0].endswith("its clients count as one")


async def test_each_answer_has_its_request_s_id(
    site: Site, http: httpx.AsyncClient, tab: Tab, session_id: str
) -> None:
    """A sane X-Request-ID is taken over, any other replaced; it stands in the answer and in every line."""
    human = bearer(session_id)
    asked = site.ask(session_id)
    answer = await http.post(
        f"{site.a.base}/permission-response/{session_id}",
        headers=human | {"X-Request-ID": f"trace-{session_id}"},
        json={"approved": True, "request_id": asked["request_id"]},
    )
    assert answer.headers["x-request-id"] == f"trace-{session_id}"

    def answer_lines() -> list[dict[str, Any]]:
        return [line for line in site.a.logs() if line.get("http_request_id") == f"trace-{session_id}"]

    await until(lambda: len(answer_lines()) == 2, "both lines")
    lines = answer_lines()
    assert {line["message"] for line in lines} == {"permission_decided", "answered"}
    (decided,) = (line for line in lines if line["message"] == "permission_decided")
    assert decided["request_id"] == asked["request_id"]

    stream = await tab(site.a, session_id, headers={"X-Request-ID": f"page-{session_id}"})
    assert stream.headers["x-request-id"] == f"page-{session_id}"
    stream.close()

    def stream_lines() -> list[str]:
        lines = [line for line in site.a.logs("SSE") if line.get("http_request_id") == f"page-{session_id}"]
        return [line["message"] for line in lines]

    await until(lambda: "SSE stream closed" in stream_lines(), "the line of the end")
    assert stream_lines() == ["SSE stream opened", "SSE stream closed"]
    made = set()
    for given in ("", "x" * 65, "a b", "ü", token(), 'x"y'):
        headers = human | {"X-Request-ID": given.encode()}
        answer = await http.get(f"{site.a.base}/health/{session_id}", headers=headers)
        made.add(answer.headers["x-request-id"])
    assert len(made) == 6
    assert all(len(trace) == 16 and int(trace, 16) >= 0 for trace in made)


async def test_what_is_no_http_has_its_answer_s_form(site: Site) -> None:
    """Also where no handler is reached, the server's name is all that is told."""
    answer = await exchange(site.a.port, "no HTTP\r\n\r\n")
    assert answer.statuses == [400]
    assert "Server: sse_gateway" in answer.heads
    assert json.loads(answer.received.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


async def test_a_token_of_the_largest_size_fits_everywhere(
    site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """A token may have 8 KiB, in a header as in an address; a larger one is told its fault."""
    fits = token(session_id=session_id, pad="x" * 5800)
    assert 7900 < len(fits) <= 8192
    for options in ({"token": fits}, {"query": f"token={fits}"}):
        stream = await SSEStream.open(
            site.a.events(session_id, options.get("query", "")), token=options.get("token")
        )
        assert stream.status == 200
        stream.close()
    large = token(session_id=session_id, pad="x" * 6500)
    assert len(large) > 8192
    answer = await http.get(
        f"{site.a.base}/health/{session_id}", headers={"Authorization": f"Bearer {large}"}
    )
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert "8192" in answer.json()["message"]
