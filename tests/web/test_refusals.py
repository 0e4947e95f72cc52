"""Who is refused, with which status and code, before a stream starts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.stream import SSEStream, get
from tests.support.tokens import OTHER_SECRET, claims, forge, token
from tests.web.site import Site, Tab, bearer

Make = Callable[[str], str | None]


def check_refusal(answer: SSEStream, status: int, code: str, *, secret: str | None = None) -> dict[str, Any]:
    """Check that an answer is an honest JSON error that tells nothing it should not."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    body: dict[str, Any] = json.loads(answer.body)
    assert body.keys() == {"success", "code", "message"}
    assert body["success"] is False
    assert body["code"] == code
    assert body["message"].endswith((".", ")."))
    assert b"Traceback" not in answer.body
    if secret:
        assert secret not in answer.body.decode()
    return body


def unsigned(session_id: str) -> str:
    payload = {"sub": "user-1", "session_id": session_id, "exp": int(time.time()) + 600}
    return jwt.encode(payload, "", algorithm="none")


def of_another_algorithm(session_id: str) -> str:
    return forge({"alg": "HS512"}, claims(session_id=session_id), algorithm="HS512")


BAD_TOKENS: dict[str, tuple[Make, str]] = {
    "none": (lambda sid: None, "token_missing"),
    "empty": (lambda sid: "", "token_missing"),
    "garbage": (lambda sid: "garbage", "token_invalid"),
    "of another secret": (lambda sid: token(OTHER_SECRET, session_id=sid), "token_invalid"),
    "unsigned": (unsigned, "token_invalid"),
    "of another algorithm": (of_another_algorithm, "token_invalid"),
    "altered": (lambda sid: token(session_id=sid)[:-4] + "AAAA", "token_invalid"),
    "without exp": (lambda sid: token(session_id=sid, exp=...), "token_invalid"),
    "without user": (lambda sid: token(session_id=sid, sub=...), "token_invalid"),
    "not valid yet": (lambda sid: token(session_id=sid, nbf=time.time() + 300), "token_invalid"),
    "for another audience": (lambda sid: token(session_id=sid, aud="other"), "token_invalid"),
    "of no JSON": (lambda sid: forge({"alg": "HS256"}, b"not json"), "token_invalid"),
    "expired": (lambda sid: token(session_id=sid, exp=int(time.time()) - 60), "token_expired"),
}


@pytest.mark.parametrize("place", ["header", "query"])
@pytest.mark.parametrize("case", BAD_TOKENS)
async def test_a_bad_token_is_a_401(site: Site, session_id: str, case: str, place: str) -> None:
    """Each kind of bad token is refused by its code, in the header as in the query, and never repeated."""
    make, code = BAD_TOKENS[case]
    made = make(session_id)
    in_query = f"token={made}" if made is not None and place == "query" else ""
    in_header = made if place == "header" else None
    answer = await get(site.a.events(session_id, in_query), token=in_header)
    check_refusal(answer, 401, code, secret=made)


@pytest.mark.parametrize(
    "header",
    ["Basic dXNlcjpwYXNz", "Bearer", "bearer  ", "Token abc"],
    ids=["basic", "bare", "blank", "other"],
)
async def test_another_kind_of_authorization_is_a_401(site: Site, session_id: str, header: str) -> None:
    """Only `Bearer <token>` counts, and a header that is there hides a good token in the query."""
    answer = await get(
        site.a.events(session_id, f"token={token(session_id=session_id)}"), headers={"Authorization": header}
    )
    check_refusal(answer, 401, "token_missing")


async def test_the_header_counts_before_the_query(site: Site, tab: Tab, session_id: str) -> None:
    """With both given, the header alone decides: for good and for bad."""
    good = token(session_id=session_id)
    check_refusal(
        await get(site.a.events(session_id, f"token={good}"), token="bad"), 401, "token_invalid", secret=good
    )
    await tab(site.a, session_id, "token=bad", token=good)


ALLOWED: dict[str, tuple[Callable[[str], dict[str, Any]], bool]] = {
    "claim": (lambda sid: {"session_id": sid}, True),
    "another session's claim": (lambda sid: {"session_id": f"{sid}-2"}, False),
    "star in the claim": (lambda sid: {"session_id": "*"}, False),
    "listed": (lambda sid: {"sessions": ["x", sid]}, True),
    "every session": (lambda sid: {"sessions": ["*"]}, True),
    "prefix": (lambda sid: {"sessions": [f"{sid.partition('-')[0]}-*"]}, True),
    "prefix without separator": (lambda sid: {"sessions": [f"{sid[:-2]}*"]}, False),
    "longer than the session": (lambda sid: {"sessions": [f"{sid}-*"]}, False),
    "claimed and listed": (lambda sid: {"session_id": "x", "sessions": [sid]}, True),
    "nothing": (lambda sid: {}, False),
}


@pytest.mark.parametrize("case", ALLOWED)
async def test_a_claim_reaches_the_sessions_it_names(
    site: Site, tab: Tab, session_id: str, case: str
) -> None:
    """The session claim names one session, the sessions claim several and prefixes; others get a 403."""
    make, allowed = ALLOWED[case]
    answer = await tab(site.a, session_id, ready=False, token=token(**make(session_id)))
    if allowed:
        await answer.ready()
    else:
        body = check_refusal(answer, 403, "forbidden_session")
        assert "session" in body["message"]
        assert "owner" in body["message"]


async def test_the_owner_reaches_the_session(site: Site, tab: Tab, session_id: str) -> None:
    """A session that was published with an owner opens to that user, on every gateway, and to nobody else."""
    for gateway in (site.a, site.b):
        refused = await get(gateway.events(session_id), token=token(sub="user-1"))
        check_refusal(refused, 403, "forbidden_session")
    site.call("sse_publish", session_id, '{"type":"tool_status","data":{}}', "", "user-1")
    for gateway in (site.a, site.b):
        await tab(gateway, session_id, token=token(sub="user-1"))
        refused = await get(gateway.events(session_id), token=token(sub="user-2"))
        check_refusal(refused, 403, "forbidden_session")


@pytest.mark.parametrize("scope", ["sse:publish", "sse:respond", "sse:unknown"])
async def test_a_token_without_the_scope_is_a_403(site: Site, session_id: str, scope: str) -> None:
    """A token whose `sse:` scopes lack `sse:read` gets no stream, and is told which scope it needs."""
    answer = await get(site.a.events(session_id), token=token(session_id=session_id, scope=scope))
    assert "sse:read" in check_refusal(answer, 403, "missing_scope")["message"]


async def test_foreign_scopes_leave_the_default_rights(site: Site, tab: Tab, session_id: str) -> None:
    """A token whose scopes are other services' has the rights of one without any."""
    made = token(session_id=session_id, scope="openid profile")
    await tab(site.a, session_id, token=made)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("events/a%20b", "bad_session_id"),
        ("events/a%7Bb%7D", "bad_session_id"),
        ("events/a%2Fb", "bad_session_id"),
        ("events/a%0Ab", "bad_session_id"),
        ("events/%00", "bad_session_id"),
        ("events/h%C3%A9", "bad_session_id"),
        (f"events/{'a' * 129}", "bad_session_id"),
        ("events/s1?replay=some", "bad_parameter"),
        ("events/s1?client_id=", "bad_parameter"),
        (f"events/s1?client_id={'c' * 129}", "bad_parameter"),
        ("health/a%20b", "bad_session_id"),
    ],
)
async def test_a_malformed_request_is_a_400(site: Site, path: str, code: str) -> None:
    """What is malformed is refused as such, whatever the token may do."""
    answer = await get(f"{site.a.base}/{path}", token=token(sessions=["*"]))
    check_refusal(answer, 400, code)


async def test_refusals_are_counted(site: Site, session_id: str) -> None:
    """Each refused caller is counted under its code."""

    async def counted(gateway: GatewayProcess) -> tuple[float, float]:
        metrics = await gateway.metrics()
        return (
            metrics.get('sse_gateway_auth_failures_total{code="token_expired"}', 0),
            metrics.get('sse_gateway_streams_rejected_total{reason="token_expired"}', 0),
        )

    before = await counted(site.b)
    await get(site.b.events(session_id), token=token(session_id=session_id, exp=int(time.time()) - 60))
    assert await counted(site.b) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("path", ["permission-response", "publish"])
async def test_a_post_takes_its_token_from_the_header_alone(
    site: Site, http: httpx.AsyncClient, session_id: str, path: str
) -> None:
    """A token in the query opens a stream and nothing else."""
    made = token(session_id=session_id, scope="sse:read sse:respond sse:publish")
    url = f"{site.a.base}/{path}/{session_id}"
    answer = await http.post(f"{url}?token={made}", json={"approved": True, "type": "x"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
    assert made not in answer.text


@pytest.mark.parametrize(
    ("path", "scope"), [("permission-response", "sse:respond"), ("publish", "sse:publish")]
)
async def test_a_post_needs_its_scope(
    site: Site, http: httpx.AsyncClient, session_id: str, path: str, scope: str
) -> None:
    """Answering and publishing each need a scope of their own."""
    others = " ".join({"sse:read", "sse:respond", "sse:publish"} - {scope})
    answer = await http.post(
        f"{site.a.base}/{path}/{session_id}",
        headers=bearer(session_id, scope=others),
        json={"type": "tool_status", "data": {}},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
    assert scope in answer.json()["message"]
