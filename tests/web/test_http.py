"""HTTP around the API: unknown paths, wrong methods, bodies, and pages of other origins."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.tokens import token
from tests.web.site import PAGE_ORIGIN, Site, Tab, bearer, raw

STRANGER = "https://evil.example.org"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def code(answer: httpx.Response) -> str:
    """Return the code of a refusal, which is always the same JSON."""
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    body = answer.json()
    assert body["success"] is False
    assert body["message"]
    return str(body["code"])


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/agent_backend/api/sse", "/agent_backend/api/sse/events/"]
)
async def test_an_unknown_path_is_a_404(site: Site, http: httpx.AsyncClient, path: str) -> None:
    """What is not there is said in the same JSON as every refusal."""
    answer = await http.get(site.a.origin + path)
    assert answer.status_code == 404
    assert code(answer) == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "events", "GET"),
        ("HEAD", "events", "GET"),
        ("OPTIONS", "events", "GET"),
        ("DELETE", "events", "GET"),
        ("GET", "permission-response", "POST"),
        ("PUT", "publish", "POST"),
        ("POST", "health", "GET"),
    ],
)
async def test_another_method_is_a_405(
    site: Site, http: httpx.AsyncClient, session_id: str, method: str, path: str, allowed: str
) -> None:
    """A path says which method it takes."""
    answer = await http.request(method, f"{site.a.base}/{path}/{session_id}", headers=bearer(session_id))
    assert answer.status_code == 405
    assert allowed in answer.headers["allow"].split(",")
    if method != "HEAD":
        assert code(answer) == "method_not_allowed"


@pytest.mark.parametrize("path", ["permission-response", "publish"])
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_only_json_is_taken(
    site: Site, http: httpx.AsyncClient, session_id: str, path: str, content_type: str | None
) -> None:
    """A body must say that it is JSON: those are the types a foreign page may send without a preflight."""
    headers = bearer(session_id, scope="sse:respond sse:publish")
    if content_type:
        headers["Content-Type"] = content_type
    answer = await http.post(
        f"{site.a.base}/{path}/{session_id}", headers=headers, content=b'{"approved":true,"type":"x"}'
    )
    assert answer.status_code == 415
    assert code(answer) == "unsupported_media_type"


@pytest.mark.parametrize("path", ["permission-response", "publish"])
async def test_a_body_that_is_too_large_is_a_413(
    site: Site, http: httpx.AsyncClient, session_id: str, path: str
) -> None:
    """More than the largest event and its envelope is refused, with or without a length in advance."""
    headers = bearer(session_id, scope="sse:respond sse:publish") | {"Content-Type": "application/json"}
    url = f"{site.a.base}/{path}/{session_id}"
    large = b'{"type":"x","data":"' + b"a" * 400_000 + b'"}'
    assert code(await http.post(url, headers=headers, content=large)) == "payload_too_large"

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"a" * 100_000

    answer = await http.post(url, headers=headers, content=pieces())
    assert answer.status_code == 413
    assert code(answer) == "payload_too_large"


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /x?token={} \x00 HTTP/1.1\r\n\r\n",
        "GET /x?token={} HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nAuthorization Bearer {}\r\n\r\n",
        "GET / HTTP/1.1\r\nAuthorization: Bearer {}\x01\r\n\r\n",
        "GET /?token={}" + "a" * 20_000 + " HTTP/1.1\r\n\r\n",
        "{}\r\n\r\n",
    ],
    ids=["address", "version", "header", "value", "length", "no HTTP"],
)
async def test_what_is_no_http_is_not_repeated(site: Site, session_id: str, request_text: str) -> None:
    """A request that cannot be read gets the same JSON as any refusal, which quotes nothing of it."""
    made = token(session_id=session_id)
    answer = (await raw(site.a, request_text.format(made))).decode()
    head, _, body = answer.partition("\r\n\r\n")
    status = 414 if "aaaa" in request_text else 400
    assert head.startswith((f"HTTP/1.1 {status} ", f"HTTP/1.0 {status} "))
    assert "application/json" in head
    assert json.loads(body)["code"] == ("url_too_long" if status == 414 else "bad_request")
    assert made[:20] not in answer
    # The gateway is none the worse for it.
    await site.a.answers("/healthz")


@pytest.mark.parametrize("path", ["events", "permission-response", "health", "publish"])
async def test_a_named_origin_may_ask(
    site: Site, http: httpx.AsyncClient, session_id: str, path: str
) -> None:
    """A preflight of a page in CORS_ORIGINS is allowed, with the headers a page needs."""
    answer = await http.options(
        f"{site.a.base}/{path}/{session_id}", headers={"Origin": PAGE_ORIGIN, **PREFLIGHT}
    )
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PAGE_ORIGIN
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key", "last-event-id"} <= set(allowed)
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["vary"] == "Origin"


async def test_a_named_origin_may_read(
    site: Site, tab: Tab, http: httpx.AsyncClient, session_id: str
) -> None:
    """Such a page reads streams, answers and refusals alike, and when to try again."""
    headers = {"Origin": PAGE_ORIGIN}
    stream = await tab(site.a, session_id, headers=headers)
    answers = [
        await http.get(f"{site.a.base}/health/{session_id}", headers=headers | bearer(session_id)),
        await http.get(f"{site.a.base}/health/{session_id}", headers=headers),
        await http.get(f"{site.a.base}/nothing", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 404]
    for found in (stream.headers, *(answer.headers for answer in answers)):
        assert found["access-control-allow-origin"] == PAGE_ORIGIN
        assert found["access-control-expose-headers"] == "Retry-After"
        assert found["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", [STRANGER, "null", PAGE_ORIGIN.upper(), f"{PAGE_ORIGIN}.evil.example", PAGE_ORIGIN[:-1]]
)
async def test_another_origin_may_not(
    site: Site, tab: Tab, http: httpx.AsyncClient, session_id: str, origin: str
) -> None:
    """A page of any other origin, however alike, is allowed nothing."""
    stream = await tab(site.a, session_id, headers={"Origin": origin})
    url = f"{site.a.base}/permission-response/{session_id}"
    preflight = await http.options(url, headers={"Origin": origin, **PREFLIGHT})
    assert preflight.status_code == 405
    refused = await http.post(url, headers={"Origin": origin}, json={})
    for headers in (stream.headers, preflight.headers, refused.headers):
        assert not [name for name in headers if name.lower().startswith("access-control-")]
