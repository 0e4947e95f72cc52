"""Every rule about claims, each with what passes and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from sse_gateway.auth.claims import ClaimRules, check_claims, principal_of, shown

NOW = 1_800_000_000.0
TEN_YEARS = 10 * 366 * 24 * 3600
DEFAULTS = frozenset({"sse:read", "sse:respond"})


def rules(**changed: Any) -> ClaimRules:
    return ClaimRules(default_scopes=DEFAULTS, **changed)


def claims(**changed: Any) -> dict[str, Any]:
    made = {"sub": "user-1", "exp": NOW + 600} | changed
    return {name: value for name, value in made.items() if value is not ...}


def refusal(given: dict[str, Any], by: ClaimRules | None = None) -> tuple[str, str] | None:
    """Return rule and code of the refusal that counts."""
    failed = (check for check in check_claims(given, by or rules(), NOW) if not check.ok)
    return next(((check.rule, check.code) for check in failed), None)


INVALID = "token_invalid"
EXPIRED = ("exp", "token_expired")


@pytest.mark.parametrize(
    ("expiry", "expected"),
    [
        pytest.param(NOW + 600, None, id="a float"),
        pytest.param(int(NOW) + 600, None, id="an int"),
        pytest.param(NOW - 29.9, None, id="past, within the leeway"),
        pytest.param(NOW - 30, EXPIRED, id="past, the leeway just over"),
        pytest.param(0, EXPIRED, id="zero"),
        pytest.param(-1, EXPIRED, id="negative"),
        pytest.param(-(10**400), EXPIRED, id="negative beyond any float"),
        pytest.param(NOW + TEN_YEARS - 86400, None, id="almost ten years ahead"),
        pytest.param(NOW + TEN_YEARS + 86400, ("exp", INVALID), id="more than ten years ahead"),
        pytest.param(int(NOW * 1000), ("exp", INVALID), id="milliseconds"),
        pytest.param(10**400, ("exp", INVALID), id="beyond any float"),
        pytest.param(1e308, ("exp", INVALID), id="a huge float"),
        pytest.param(float("inf"), ("exp", INVALID), id="infinite"),
        pytest.param(float("nan"), ("exp", INVALID), id="not a number"),
        pytest.param(str(int(NOW) + 600), ("exp", INVALID), id="text"),
        pytest.param(True, ("exp", INVALID), id="true"),
        pytest.param([NOW + 600], ("exp", INVALID), id="a list"),
        pytest.param(None, ("exp", INVALID), id="null"),
        pytest.param(..., ("exp", INVALID), id="missing"),
    ],
)
def test_expiry(expiry: Any, expected: tuple[str, str] | None) -> None:
    assert refusal(claims(exp=expiry)) == expected


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize(
    ("moment", "passes"),
    [
        pytest.param(..., True, id="missing"),
        pytest.param(NOW, True, id="now"),
        pytest.param(0, True, id="long ago"),
        pytest.param(-5.5, True, id="before 1970"),
        pytest.param(NOW + 30, True, id="ahead, within the leeway"),
        pytest.param(NOW + 31, False, id="ahead"),
        pytest.param(10**400, False, id="beyond any float"),
        pytest.param(str(int(NOW)), False, id="text"),
        pytest.param(False, False, id="false"),
        pytest.param(None, False, id="null"),
        pytest.param(float("inf"), False, id="infinite"),
    ],
)
def test_not_before_and_issued_at(name: str, moment: Any, passes: bool) -> None:
    assert refusal(claims(**{name: moment})) == (None if passes else (name, INVALID))


@pytest.mark.parametrize(
    ("expected", "given", "passes"),
    [
        (None, ..., True),
        (None, "anybody", True),
        ("https://id.example", "https://id.example", True),
        ("https://id.example", "https://id.example/", False),
        ("https://id.example", ["https://id.example"], False),
        ("https://id.example", None, False),
        ("https://id.example", ..., False),
    ],
)
def test_issuer(expected: str | None, given: Any, passes: bool) -> None:
    assert refusal(claims(iss=given), rules(issuer=expected)) == (None if passes else ("iss", INVALID))


@pytest.mark.parametrize(
    ("expected", "given", "passes"),
    [
        ("sse", "sse", True),
        ("sse", ["billing", "sse"], True),
        ("sse", "billing", False),
        ("sse", "sse,billing", False),
        ("sse", ["billing"], False),
        ("sse", ["sse", 5], False),
        ("sse", {"sse": True}, False),
        ("sse", [], False),
        ("sse", ..., False),
        ("sse", None, False),
        (None, ..., True),
        (None, None, True),
        (None, [], True),
        (None, "billing", False),
    ],
)
def test_audience(expected: str | None, given: Any, passes: bool) -> None:
    assert refusal(claims(aud=given), rules(audience=expected)) == (None if passes else ("aud", INVALID))


@pytest.mark.parametrize(
    ("user", "passes"),
    [
        ("user-1", True),
        ("auth0|5f7c", True),
        ("Zoë Müller", True),
        ("李雷", True),
        ("u" * 256, True),
        ("u" * 257, False),
        ("", False),
        ("   ", False),
        ("a\nb", False),
        ("a\r", False),
        ("a\x00b", False),
        ("a\x7fb", False),
        ("a\x85b", False),
        ("a\u2028b", False),
        ("admin\u202eresu", False),
        ("adm\u200bin", False),
        ("\ud800", False),
        (42, False),
        (True, False),
        (["user-1"], False),
        (None, False),
        (..., False),
    ],
)
def test_user(user: Any, passes: bool) -> None:
    assert refusal(claims(sub=user)) == (None if passes else ("user", INVALID))


def test_expired_is_said_only_of_a_token_that_was_good_in_every_other_way() -> None:
    assert refusal(claims(exp=5, aud="billing"), rules(audience="sse")) == ("aud", INVALID)
    assert refusal(claims(exp=5, sub="")) == ("user", INVALID)
    assert refusal(claims(exp=5)) == EXPIRED


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({}, DEFAULTS),
        ({"scope": ""}, DEFAULTS),
        ({"scope": "openid profile"}, DEFAULTS),
        ({"scope": "openid sse:read"}, {"sse:read"}),
        ({"scope": "sse:read sse:publish"}, {"sse:read", "sse:publish"}),
        ({"scope": ["sse:read"]}, {"sse:read"}),
        ({"scp": "sse:read"}, {"sse:read"}),
        ({"scp": ["sse:read", "email"]}, {"sse:read"}),
        ({"scopes": ["sse:publish"]}, {"sse:publish"}),
        ({"scope": "sse:read", "scp": ["sse:respond"], "scopes": ["sse:publish"]}, None),
        ({"scope": "sse:raed"}, {"sse:raed"}),
        ({"scope": "sse:read,sse:publish"}, {"sse:read,sse:publish"}),
        ({"scopes": ["sse:read sse:publish"]}, {"sse:read sse:publish"}),
        ({"scope": "sse:read\u00a0sse:publish"}, {"sse:read\u00a0sse:publish"}),
        ({"scope": "SSE:publish"}, DEFAULTS),
        ({"scope": " xsse:publish"}, DEFAULTS),
        ({"scope": {"sse:publish": True}}, DEFAULTS),
        ({"scope": 5, "scopes": [5, None, ["sse:publish"]]}, DEFAULTS),
    ],
)
def test_scopes_come_from_three_claims_and_only_ours_count(given: dict[str, Any], scopes: Any) -> None:
    expected = scopes if scopes is not None else {"sse:read", "sse:respond", "sse:publish"}
    assert principal_of(claims(**given), rules()).scopes == expected


@pytest.mark.parametrize(
    ("given", "sessions"),
    [
        ({}, ()),
        ({"session_id": "s1"}, ("s1",)),
        ({"session_id": "s1", "sessions": ["s2", "s1", "u1:*"]}, ("s1", "s2", "u1:*")),
        ({"session_id": "*"}, ()),
        ({"session_id": "u1:*"}, ()),
        ({"session_id": 5}, ()),
        ({"session_id": ["s1"]}, ()),
        ({"sessions": "s1"}, ()),
        ({"sessions": "*"}, ()),
        ({"sessions": {"*": 1}}, ()),
        ({"sessions": [["*"], 1, None, "u1*", "s 1", "s1"]}, ("s1",)),
        ({"sessions": ["*"]}, ("*",)),
    ],
)
def test_sessions_a_star_counts_in_the_list_alone_and_odd_shapes_reach_nothing(
    given: dict[str, Any], sessions: tuple[str, ...]
) -> None:
    assert refusal(claims(**given)) is None
    assert principal_of(claims(**given), rules()).sessions == sessions


def test_the_names_of_the_claims_are_settings() -> None:
    named = rules(user_claim="https://example.org/uid", session_claim="chat", sessions_claim="chats")
    given = claims(chat="s1", chats=["u:*"], session_id="s9", sessions=["*"]) | {
        "https://example.org/uid": "anna"
    }
    assert refusal(given, named) is None
    made = principal_of(given, named)
    assert (made.user, made.sessions) == ("anna", ("s1", "u:*"))
    assert refusal(claims(), named) == ("user", INVALID)


def test_another_user_claim_does_not_care_what_sub_is() -> None:
    assert refusal(claims(sub=42, email="a@example.org"), rules(user_claim="email")) is None


def test_the_message_for_milliseconds_says_so() -> None:
    failed = [check for check in check_claims(claims(exp=int(NOW * 1000)), rules(), NOW) if not check.ok]
    assert "divide milliseconds by 1,000" in failed[0].text


def test_values_are_shown_in_one_short_ascii_line() -> None:
    text = shown("\x1b[2J\u202e\n\x7f" + "é" * 500)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 80
