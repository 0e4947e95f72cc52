"""An answer says only what it may, and nothing is taken for something else."""

from __future__ import annotations

import json

import pytest

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.permissions import Answer, args_digest, check_against_request, compose_decision

REQUEST = {
    "request_id": "r1",
    "args_digest": "sha256:aa",
    "editable": True,
    "options": [
        {"id": "once", "label": "Once", "kind": "allow_once"},
        {"id": "never", "label": "Never", "kind": "reject_always"},
        {"id": "odd", "label": "Odd"},
    ],
}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"approved":true}', Answer(True)),
        (b'{"approved":false,"reason":"no"}', Answer(False, reason="no")),
        (b'{"approved":true,"reason":null,"request_id":null}', Answer(True)),
        (b'{"approved":true,"updated_input":{}}', Answer(True, updated_input={})),
    ],
)
def test_bodies(body: bytes, answer: Answer) -> None:
    """The two-field body of old clients works; null counts as absent."""
    assert Answer.parse(body) == answer


@pytest.mark.parametrize(
    ("body", "code", "names"),
    [
        (b"{", "malformed_json", ""),
        (b"[]", "bad_request", "object"),
        (b"{}", "bad_request", "approved"),
        (b'{"approved":"true"}', "bad_request", "approved"),
        (b'{"approved":1}', "bad_request", "approved"),
        (b'{"approved":true,"aproved":false}', "bad_request", "aproved"),
        (b'{"approved":true,"approved":false}', "malformed_json", "twice"),
        (b'{"approved":true,"request_id":""}', "bad_request", "request_id"),
        (b'{"approved":true,"request_id":7}', "bad_request", "request_id"),
        (b'{"approved":true,"updated_input":[]}', "bad_request", "updated_input"),
        (b'{"approved":true,"decided_by":"me"}', "bad_request", "decided_by"),
    ],
)
def test_bad_bodies(body: bytes, code: str, names: str) -> None:
    """Each fault names the member."""
    with pytest.raises(GatewayError) as refused:
        Answer.parse(body)
    assert refused.value.code == code
    assert names in refused.value.message


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(True), None),
        (Answer(False), None),
        (Answer(True, option_id="once"), "allow_once"),
        (Answer(False, option_id="never"), "reject_always"),
        (Answer(True, args_digest="sha256:aa"), None),
        (Answer(True, updated_input={"cmd": "ls"}), None),
    ],
)
def test_answers_a_request_allows(answer: Answer, kind: str | None) -> None:
    """The kind of the chosen option goes into the decision."""
    assert check_against_request(answer, REQUEST) == kind


@pytest.mark.parametrize(
    ("answer", "request_", "code"),
    [
        (Answer(False, option_id="once"), REQUEST, "option_conflict"),
        (Answer(True, option_id="never"), REQUEST, "option_conflict"),
        (Answer(True, option_id="odd"), REQUEST, "option_conflict"),
        (Answer(True, option_id="nobody"), REQUEST, "option_conflict"),
        (Answer(True, option_id="once"), {}, "option_conflict"),
        (Answer(True, args_digest="sha256:bb"), REQUEST, "digest_mismatch"),
        (Answer(True, args_digest="sha256:bb"), {}, "digest_mismatch"),
        (Answer(True, updated_input={}), {}, "not_editable"),
        (Answer(True, updated_input={}), {"editable": "yes"}, "not_editable"),
        (Answer(False, updated_input={}), REQUEST, "not_editable"),
    ],
)
def test_answers_a_request_does_not_allow(answer: Answer, request_: dict[str, object], code: str) -> None:
    """What contradicts the request is refused and leaves it pending."""
    with pytest.raises(GatewayError) as refused:
        check_against_request(answer, request_)
    assert refused.value.code == code


def test_who_decided_is_never_the_bodys_word() -> None:
    """`decided_by` comes from the token."""
    decision = json.loads(
        compose_decision(Answer(True, reason="ok"), "r1", REQUEST, option_kind=None, decided_by="user-1")
    )
    assert decision["decided_by"] == "user-1"
    assert decision["outcome"] == "approved"
    assert decision["args_digest"] == "sha256:aa"
    assert "decided_at" not in decision


def test_the_digest_is_that_of_the_canonical_form() -> None:
    """Order and spelling of numbers do not matter; the value was computed with another RFC 8785 tool."""
    assert args_digest({"b": 1, "a": [1.0, "é"]}) == args_digest({"a": [1, "é"], "b": 1.0})
    assert args_digest({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
