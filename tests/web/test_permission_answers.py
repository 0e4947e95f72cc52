"""What an answer may say, what it may leave out, and what leaves the request open."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.web.site import Human, Site, bearer


async def test_the_two_field_body_of_old_clients(any_site: Site, human: Human, session_id: str) -> None:
    """`{approved, reason}` answers the one open request, repeats within moments, and never guesses."""
    nothing = await human.answer(any_site.a, reason="yes")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "no_pending_permission")

    first = any_site.ask(session_id)["request_id"]
    too_new = await human.answer(any_site.b, reason="yes")
    assert (too_new.status_code, too_new.json()["code"]) == (409, "too_new")
    answer = await human.answer(any_site.a, reason="yes")
    assert answer.status_code == 200
    assert answer.json()["data"]["request_id"] == first
    assert answer.json()["data"]["decision"]["reason"] == "yes"

    second = any_site.ask(session_id)["request_id"]
    double_click = await human.answer(any_site.a, reason="yes")
    assert double_click.json()["data"]["request_id"] == first
    assert double_click.json()["data"]["replayed"] is True
    assert json.loads(any_site.call("sse_decision", session_id, second))["status"] == "pending"


async def test_several_open_requests_are_never_guessed_at(
    any_site: Site, human: Human, session_id: str
) -> None:
    """Without an id and with several requests open, the ids are told and nothing is decided."""
    ids = [any_site.ask(session_id, request_id=f"r{n}")["request_id"] for n in range(3)]
    answer = await human.answer(any_site.a)
    assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous_request")
    assert answer.json()["request_ids"] == ids
    for request_id in ids:
        assert json.loads(any_site.call("sse_decision", session_id, request_id))["status"] == "pending"


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "approved missing": ({"approved": None}, 400, "bad_request"),
    "approved no boolean": ({"approved": "yes"}, 400, "bad_request"),
    "a number": ({"approved": 1}, 400, "bad_request"),
    "misspelt member": ({"updatedInput": {}}, 400, "bad_request"),
    "somebody else's name": ({"decided_by": "root"}, 400, "bad_request"),
    "unknown option": ({"option_id": "nope"}, 400, "option_conflict"),
    "option of the other kind": ({"option_id": "no"}, 400, "option_conflict"),
    "an edit nobody offered": ({"updated_input": {"cmd": "x"}}, 400, "not_editable"),
    "other arguments": ({"args_digest": "d:2"}, 409, "digest_mismatch"),
    "no such request": ({"request_id": "r9"}, 404, "unknown_request"),
    "reading only": ({"claims": {"scope": "sse:read"}}, 403, "missing_scope"),
    "another session": ({"claims": {"session_id": "other"}}, 403, "forbidden_session"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_answer_leaves_the_request_open(
    site: Site, human: Human, http: httpx.AsyncClient, session_id: str, case: str
) -> None:
    """What is malformed, contradictory or forbidden decides nothing."""
    members, status, code = REFUSED[case]
    options = [{"id": "no", "label": "No", "kind": "reject_once"}]
    site.ask(session_id, request_id="r1", options=options, args_digest="d:1")
    claims = members.get("claims", {})
    if "session_id" in claims:
        url = f"{site.a.base}/permission-response/{session_id}"
        answer = await http.post(url, headers=bearer(**claims), json={"approved": True, "request_id": "r1"})
    else:
        answer = await human.answer(site.a, **{"request_id": "r1", **members})
    assert answer.status_code == status
    assert answer.json()["success"] is False
    assert answer.json()["code"] == code
    assert json.loads(site.call("sse_decision", session_id, "r1"))["status"] == "pending"


@pytest.mark.parametrize(
    "body", [b"", b"approved", b"[true]", b'{"approved":true', b'{"approved":true,"approved":false}', b"\xff"]
)
async def test_a_malformed_body_is_a_400(
    site: Site, http: httpx.AsyncClient, session_id: str, body: bytes
) -> None:
    """A body that is no JSON object, or says two things at once, decides nothing."""
    site.ask(session_id, request_id="r1")
    answer = await http.post(
        f"{site.a.base}/permission-response/{session_id}",
        headers=bearer(session_id) | {"Content-Type": "application/json"},
        content=body,
    )
    assert answer.status_code == 400
    assert answer.json()["code"] in ("malformed_json", "bad_request")
    assert json.loads(site.call("sse_decision", session_id, "r1"))["status"] == "pending"
